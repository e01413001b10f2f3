"""The two steps of matching in torch, on diffusers' transformer: what ours are timed against.

    student:  x0 = x - s v(x, s), after a roll-out x += (s' - s) v(x, s) without a gradient;
              g = (fake - teacher) / max(mean |x0 - teacher|, floor) at the shared point;
              loss = 1/2 |x0 - stop(x0 - g)|^2
    critic:   loss = |v(x, level) - (fresh - x0)|^2 at x = (1 - level) x0 + level fresh

`train/match.py` has the same of ours. torch and diffusers are imported when they are asked for, and
nowhere else. Letters: b batch, c channels, h w latents.
"""

import importlib
from typing import Any

import jax
import numpy as np

from flashjax.convert.configs import mmdit_config_to_diffusers
from flashjax.convert.transformer import transformer_to
from flashjax.tools.bench.matched import DRAWN, MATCH, RATE, Calls, Case, Draws
from flashjax.types import InputError, Params

BETAS, EPSILON, CLIP = (0.9, 0.999), 1e-8, 1.0
MANY = 64  # programs that torch.compile may keep of one function


def imported() -> tuple[Any, Any]:
    """torch, and diffusers' transformer. InputError where one of them is not installed."""
    try:
        torch = importlib.import_module("torch")
        found = importlib.import_module("diffusers.models.transformers.transformer_sd3")
    except ImportError as error:
        raise InputError(
            f"bench torch compares with torch and diffusers, and {error.name} is not installed: "
            "pip install -r requirements-test.txt, or give --sides ours"
        ) from error
    return torch, found.SD3Transformer2DModel


class Theirs:
    """Student, fake score and teacher of one case in torch, on its accelerator if it has one."""

    def __init__(self, case: Case, *, dtype: str, checkpointing: bool = False) -> None:
        self.torch, self.kind = imported()
        self.case, self.dtype = case, getattr(self.torch, dtype)
        self.device = "cuda" if self.torch.cuda.is_available() else "cpu"
        self.checkpointing = checkpointing

    def network(self, params: Params | None, *, dtype: Any = None) -> Any:
        """A transformer with our weights, or with random ones of its own, made on the device."""
        torch, sizes = self.torch, self.case.sizes
        with torch.device(self.device):
            config = mmdit_config_to_diffusers(sizes, sample_size=self.case.side)
            model = self.kind(**{k: v for k, v in config.items() if not k.startswith("_")})
        with torch.no_grad():
            if params is None:
                for name, weight in model.named_parameters():
                    weight.fill_(1.0) if ".norm_" in name else weight.normal_(std=0.02)
            else:
                given = transformer_to(jax.device_get(params), sizes, "diffusers")
                state = {k: torch.from_numpy(np.array(given[k])) for k in given}
                model.load_state_dict(state)
        if self.checkpointing:
            model.enable_gradient_checkpointing()
        return model if dtype is None else model.to(dtype)

    def tensor(self, array: Any) -> Any:
        """An array of ours, latents "b h w c" as "b c h w"."""
        host = np.array(array, np.float32)
        host = np.ascontiguousarray(host.transpose(0, 3, 1, 2)) if host.ndim == 4 else host
        return self.torch.from_numpy(host).to(self.device)

    def velocity(self, model: Any, x: Any, sigma: Any, cond: Any) -> Any:
        """The velocity in fp32, computed in this side's dtype."""
        with self.torch.autocast(self.device, self.dtype, enabled=self.dtype.itemsize == 2):
            found = model(
                hidden_states=x,
                timestep=1000.0 * sigma,
                encoder_hidden_states=cond[0],
                pooled_projections=cond[1],
                return_dict=False,
            )[0]
        return found.float()

    def walked(self, model: Any, x: Any, sigmas: list[float], upto: int, cond: Any) -> Any:
        """The state before step `upto`: Euler steps without a gradient."""
        with self.torch.no_grad():
            for k in range(upto):
                level = x.new_full((len(x),), sigmas[k])
                x = x + (sigmas[k + 1] - sigmas[k]) * self.velocity(model, x, level, cond)
        return x

    def student_loss(
        self, student: Any, teacher: Any, fake: Any, d: Draws, sigmas: list[float], conds: Any
    ) -> Any:
        """As `make_student_loss` of ours."""
        torch, (cond, uncond) = self.torch, conds
        x = self.walked(student, d.noise, sigmas, DRAWN["student"], cond)
        s = sigmas[DRAWN["student"]]
        v = self.velocity(student, x, x.new_full((len(x),), s), cond)
        x0, end = x - s * v, x + (1.0 - s) * v
        with torch.no_grad():
            level, kept = (y[:, None, None, None] for y in (d.level, d.kept))
            point = (1.0 - level) * x0 + kept * end + d.fresh
            twice = [torch.cat(pair) for pair in zip(cond, uncond, strict=True)]
            both = torch.cat([point, point]), torch.cat([d.level, d.level])
            texted, plain = self.velocity(teacher, *both, twice).chunk(2)
            guided = plain + MATCH.guidance_scale * (texted - plain)
            teacher_x0 = point - level * guided
            fake_x0 = point - level * self.velocity(fake, point, d.level, cond)
            scale = (x0 - teacher_x0).abs().mean((1, 2, 3), keepdim=True)
            target = x0 - (fake_x0 - teacher_x0) / scale.clamp(min=MATCH.floor)
        return 0.5 * (x0 - target).square().mean()

    def critic_loss(self, student: Any, fake: Any, d: Draws, sigmas: list[float], cond: Any) -> Any:
        """As `make_critic_loss` of ours."""
        x = self.walked(student, d.noise, sigmas, DRAWN["critic"], cond)
        s = sigmas[DRAWN["critic"]]
        with self.torch.no_grad():
            x0 = x - s * self.velocity(student, x, x.new_full((len(x),), s), cond)
            level = d.level[:, None, None, None]
            point, target = (1.0 - level) * x0 + level * d.fresh, d.fresh - x0
        return (self.velocity(fake, point, d.level, cond) - target).square().mean()

    def gradients(self, loss: Any, model: Any) -> tuple[float, dict[str, np.ndarray]]:
        """The loss and its gradients, under diffusers' names."""
        loss.backward()
        found = {name: w.grad.float().cpu().numpy() for name, w in model.named_parameters()}
        return float(loss.detach()), found

    def calls(
        self, parts: tuple[str, ...], draws: dict[str, Draws], given: Any, mode: str
    ) -> Calls:
        """The parts, `mode` "eager", "compiled" (whole networks) or "blocks" (each block)."""
        torch = self.torch
        (cond, uncond), sigmas = given
        stored = self.dtype if self.dtype.itemsize == 2 else None
        student, fake = self.network(None), self.network(None)
        teacher = self.network(None, dtype=stored)
        for network in (student, fake, teacher):
            compiled(torch, network, mode)
        make = lambda model: torch.optim.AdamW(
            model.parameters(), RATE, BETAS, EPSILON, weight_decay=0.0, fused=True
        )
        optimisers = {"student": make(student), "critic": make(fake)}
        latents: Any = draws["student"].noise
        level = latents.new_full((len(latents),), 0.5)

        def forward() -> Any:
            with torch.no_grad():
                return self.velocity(student, latents, level, cond).square().mean()

        def gradient() -> Any:
            self.velocity(student, latents, level, cond).square().mean().backward()
            student.zero_grad(set_to_none=True)

        def student_step() -> Any:
            conds = cond, uncond
            return self.student_loss(student, teacher, fake, draws["student"], sigmas, conds)

        def critic_step() -> Any:
            return self.critic_loss(student, fake, draws["critic"], sigmas, cond)

        def stepped(part: str, loss_of: Any, model: Any) -> Any:
            def call() -> None:
                loss_of().backward()
                torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
                optimisers[part].step()
                model.zero_grad(set_to_none=True)

            return call

        all_parts = {
            "forward": forward,
            "gradient": gradient,
            "student": stepped("student", student_step, student),
            "critic": stepped("critic", critic_step, fake),
        }
        return {part: self.waited(all_parts[part]) for part in parts}

    def waited(self, call: Any) -> Any:
        """The call, over when the device is done."""

        def whole() -> None:
            call()
            if self.device == "cuda":
                self.torch.cuda.synchronize()

        return whole


def compiled(torch: Any, network: Any, mode: str) -> None:
    """Has `torch.compile` make a network's programs, of the whole or of each block."""
    torch._dynamo.config.recompile_limit = MANY
    if mode == "compiled":
        network.compile(dynamic=False)
    elif mode == "blocks":
        for block in network.transformer_blocks:
            block.compile(dynamic=False)
