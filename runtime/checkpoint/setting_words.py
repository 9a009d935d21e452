"""What people call the settings that a training keeps while it lasts."""

from runtime.checkpoint.facts import Setting

DIGESTS = {
    "class_names_digest": "set of class names",
    "training_samples_digest": "choice of training samples",
    "test_samples_digest": "choice of test samples",
}
"""Settings whose values mean nothing to people, by what they are digests of."""

_WORDS = {
    "augment": "--augment",
    "clip_norm": "--clip-norm",
    "dense": "--dense",
    "ema_decay": "--ema",
    "eval_every": "--eval-every",
    "half": "--amp-dtype",
    "label_smoothing": "--label-smoothing",
    "layer_decay": "--layer-decay",
    "linear_probe": "--linear-probe",
    "lora_alpha": "--lora-alpha",
    "lora_rank": "--lora-rank",
    "lr": "--learning-rate",
    "lr_decay": "--lr-schedule",
    "minibatch_samples": "samples of a mini-batch",
    "num_classes": "number of classes",
    "num_epochs": "--epochs",
    "num_tokens": "number of tokens",
    "num_train": "number of training samples",
    "packed": "--packed",
    "schedule": "--schedule",
    "seed": "--seed",
    "warmup": "--warmup",
    "weight_decay": "--weight-decay",
    **DIGESTS,
}


def setting_words(name: str) -> str:
    """A setting: by the option that sets it, if there is one."""
    return _WORDS.get(name, name.replace("_", " "))


def value_words(value: Setting) -> str:
    """Its value."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "on" if value else "off"
    return str(value)
