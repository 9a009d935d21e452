"""``d2ft generate``: what a decoder says after a prompt, with what was trained."""

from typing import Annotated

import typer

from analysis.commands import options


def run(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            help="A folder that 'd2ft finetune' wrote, a folder of adapters of peft, or a decoder: "
            "its name, or a folder in the layout of transformers.",
        ),
    ],
    prompt: Annotated[str, typer.Option(help="What the text begins with.")],
    chat: Annotated[
        bool,
        typer.Option("--chat", help="The prompt is a user's message, for the chat template."),
    ] = False,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Tokens that follow at most.")] = 64,
    temperature: Annotated[
        float,
        typer.Option(
            min=0, help="Of drawing tokens by probability; 0 takes the most probable ones."
        ),
    ] = 0.0,
    weights: options.Weights = None,
    pretrained: options.Pretrained = False,
    device: options.DeviceName = "auto",
    seed: options.Seed = 0,
    json: options.Json = False,
) -> None:
    """Show what a decoder language model says after a prompt.

    Of a training with adapters the base is loaded as the training loaded it, and the adapters are
    put on it by peft: name --weights as there.
    """
    from analysis.console.output import print_json, print_line, print_note
    from analysis.finetuning.trained_model import trained_model
    from d2ft_sched.files.provenance import provenance
    from runtime.models.text_generation import build_speaker
    from runtime.torch_device import device_name, select_device

    found = trained_model(model, weights, pretrained)
    place = select_device(device)
    speaker = build_speaker(
        found.name,
        weights=found.weights,
        pretrained=pretrained,
        adapter=found.adapter,
        device=place,
    )
    told = speaker.tell(
        prompt,
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        is_chat=chat,
        seed=seed,
    )
    if json:
        print_json(
            {
                "model": found.name,
                "weights": None if found.weights is None else str(found.weights),
                "adapter": None if found.adapter is None else str(found.adapter),
                "prompt": prompt,
                "text": told.text,
                "num_prompt_tokens": told.num_prompt_tokens,
                "num_new_tokens": told.num_new_tokens,
                "has_ended": told.has_ended,
                "seconds": told.seconds,
                "provenance": provenance(seed, device=device_name(place)),
            }
        )
        return
    for line in told.text.split("\n"):
        print_line(line)
    if found.weights is None and not pretrained:
        print_note("d2ft: random weights; give --weights or --pretrained")
