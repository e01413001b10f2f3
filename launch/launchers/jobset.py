"""GKE: a JobSet, with one replicated job of a Job per slice, a pod per host.

The first process of a pod is the run itself, so that it has the signals. What is interrupted, or
loses its node, is started again as often as it takes; what crashes, some times; wrong input never.
Messages of failed Jobs are Kubernetes' own words; JobSet 0.10 is the first that reads them.
"""

from typing import Any

from flashjax.launch.launchers.job import GRACE_SECONDS, INTERRUPTED, WRONG_INPUT, Launch
from flashjax.parallel.hosts import PORT

VOLUME = "workdir"


def jobset(launch: Launch) -> dict[str, Any]:
    """The JobSet, as JSON."""
    per_slice = launch.hosts // launch.target.slices
    job = {
        "completionMode": "Indexed",
        "completions": per_slice,
        "parallelism": per_slice,
        "backoffLimit": 0,
        "podFailurePolicy": {
            "rules": [
                *({"action": "FailJob", "onExitCodes": _code(code)} for code in FINAL),
                {"action": "FailJob", "onPodConditions": [DISRUPTED]},
            ]
        },
        "template": {"spec": _pod(launch)},
    }
    exclusive = {"alpha.jobset.sigs.k8s.io/exclusive-topology": "cloud.google.com/gke-nodepool"}
    return {
        "apiVersion": "jobset.x-k8s.io/v1alpha2",
        "kind": "JobSet",
        "metadata": {"name": launch.job_name, "annotations": exclusive},
        "spec": {
            "network": {"enableDNSHostnames": True},
            "failurePolicy": {
                "maxRestarts": launch.restarts,
                "rules": [
                    _rule("refused", "FailJobSet", f"exit code {WRONG_INPUT} "),
                    _rule("interrupted", AGAIN, f"exit code {INTERRUPTED} "),
                    _rule("disrupted", AGAIN, "condition DisruptionTarget "),
                ],
            },
            "replicatedJobs": [
                {"name": "slice", "replicas": launch.target.slices, "template": {"spec": job}}
            ],
        },
    }


AGAIN = "RestartJobSetAndIgnoreMaxRestarts"
FINAL = (WRONG_INPUT, INTERRUPTED)
DISRUPTED = {"type": "DisruptionTarget", "status": "True"}


def _pod(launch: Launch) -> dict[str, Any]:
    tpu = launch.target.is_tpu
    selector = {"cloud.google.com/gke-accelerator": launch.accelerator.gke}
    environment = {
        "FLASHJAX_PROCESSES": str(launch.hosts),
        "FLASHJAX_PROCESSES_PER_JOB": str(launch.hosts // launch.target.slices),
    }
    if tpu:  # GKE tells the pods of a TPU slice who they are
        selector = {
            "cloud.google.com/gke-tpu-accelerator": launch.accelerator.gke,
            "cloud.google.com/gke-tpu-topology": launch.target.topology,
        }
        environment = {"FLASHJAX_DISTRIBUTED": "auto"}
    resource = {("google.com/tpu" if tpu else "nvidia.com/gpu"): launch.devices_per_host}
    names = {
        "JOBSET_NAME": "jobset-name",
        "REPLICATED_JOB_NAME": "replicatedjob-name",
        "JOB_INDEX": "job-index",
    }
    container = {
        "name": "flashjax",
        "image": launch.image,
        "command": launch.words(),
        "ports": [{"containerPort": PORT}],
        "env": [{"name": name, "value": value} for name, value in environment.items()]
        + [_from_label(*pair) for pair in ({} if tpu else names).items()],
        "resources": {"limits": resource, "requests": resource},
        "volumeMounts": [{"name": VOLUME, "mountPath": launch.mount}],
    }
    return {
        "restartPolicy": "Never",
        "nodeSelector": selector,
        "terminationGracePeriodSeconds": GRACE_SECONDS,
        "containers": [container],
        "volumes": [{"name": VOLUME, "persistentVolumeClaim": {"claimName": launch.claim}}],
    }


def _code(code: int) -> dict[str, Any]:
    return {"containerName": "flashjax", "operator": "In", "values": [code]}


def _rule(name: str, action: str, words: str) -> dict[str, Any]:
    """What is done where a Job failed by its pods' policy, and its message has these words."""
    reasons = {"onJobFailureReasons": ["PodFailurePolicy"], "onJobFailureMessagePatterns": [words]}
    return {"name": name, "action": action, **reasons}


def _from_label(name: str, label: str) -> dict[str, Any]:
    path = f"metadata.labels['jobset.sigs.k8s.io/{label}']"
    return {"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}}
