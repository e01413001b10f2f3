"""Distribution matching against its formula, and where its gradient goes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flashjax.losses.distribution_matching import matching_gradient, matching_loss


@pytest.fixture
def samples(key):
    """The student's sample and the predictions of teacher and fake score."""
    return tuple(jax.random.normal(k, (3, 2, 2, 4)) for k in jax.random.split(key, 3))


def test_the_gradient_is_the_scores_gap_in_units_of_the_distance_to_the_teacher(samples):
    x0, teacher, fake = (np.asarray(sample, np.float64) for sample in samples)
    distance = np.abs(x0 - teacher).reshape(3, -1).mean(1)
    want = (fake - teacher) / distance[:, None, None, None]
    got = matching_gradient(*samples, floor=0.1)
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-6)


def test_the_normaliser_has_a_floor_per_sample(samples):
    x0, teacher, fake = samples
    teacher = teacher.at[0].set(x0[0] + 0.01)
    got = matching_gradient(x0, teacher, fake, floor=0.5)
    np.testing.assert_allclose(got[0], (fake - teacher)[0] / 0.5, rtol=1e-5)
    far = matching_gradient(x0, teacher, fake, floor=0.1)
    np.testing.assert_array_equal(got[1:], far[1:])


def test_a_student_between_equal_scores_rests(samples):
    x0, teacher, _ = samples
    np.testing.assert_array_equal(matching_gradient(x0, teacher, teacher, floor=0.1), 0.0)


def test_the_loss_hands_the_given_gradient_to_the_sample(samples):
    x0, gradient, _ = samples
    loss, got = jax.value_and_grad(lambda x0: jnp.sum(matching_loss(x0, gradient)))(x0)
    elements = x0[0].size
    np.testing.assert_allclose(got, gradient / elements, atol=1e-6)
    np.testing.assert_allclose(loss, 0.5 * jnp.sum(gradient**2) / elements, rtol=1e-5)


def test_nothing_reaches_teacher_and_fake_score(samples):
    def loss(x0, teacher, fake):
        gradient = matching_gradient(x0, teacher, fake, floor=0.1)
        return jnp.sum(matching_loss(x0, gradient))

    for_teacher, for_fake = jax.grad(loss, argnums=(1, 2))(*samples)
    assert not for_teacher.any() and not for_fake.any()
