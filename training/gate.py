"""Train the gate: first to name domains, then to lower the mixture's denoising error; calibrate its coverage.

    python -m training.gate --data data/train --latents data/train-latents --held data/held \
        --experts checkpoints --out checkpoints/gate

Stage one sees whole captions and the parts that `decompose` finds in them: a background part is labelled with the
background's domain, a subject part with the subject's, a whole caption with all of its domains in equal shares.
Stage two keeps the experts fixed, stores their predictions for clips at random noise levels and moves the gate so
that the combined prediction of the plan's parts has a lower velocity error, held near stage one by its labels.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
import yaml
from safetensors.torch import save_file
from sklearn.cluster import KMeans
from torch import Tensor
from tqdm import tqdm

from moe_pipeline.diffusion import flow
from moe_pipeline.gating.gate import TextSigmaGate
from moe_pipeline.prompting.decompose import decompose
from moe_pipeline.prompting.encoder import MiniLMEncoder
from training.experts import load_denoiser
from training.latents import TEXT_TOKENS, LatentSet
from training.session import RunningClock
from training.worlds import DOMAINS
from training.worlds.attributes import domain_of_subject
from training.worlds.captions import SHAPE_WORDS

# Sentences about nothing that the worlds hold: their nearness to the captions sets the foot of the coverage.
FOREIGN = Path(__file__).with_name("foreign_prompts.yaml")


@dataclass
class Example:
    """A text and the share of each domain in it."""

    text: str
    target: list[float]


def _target(domains: Sequence[str]) -> list[float]:
    return [domains.count(d) / len(domains) if d in domains else 0.0 for d in DOMAINS]


def _subject_domain(text: str, fact: dict[str, Any]) -> str | None:
    """The domain of the subject that a part names; None where a clip of two subjects leaves it open."""
    second = fact.get("attributes", {}).get("companion")
    if second is None:
        return str(fact["domains"][-1])
    named = {
        domain_of_subject(one["subject"])
        for one in (fact["attributes"], second)
        if any(word in text for word in SHAPE_WORDS[one["shape"]])
    }
    return named.pop() if len(named) == 1 else None


def examples(facts: Sequence[dict[str, Any]]) -> list[Example]:
    """Captions and their parts with targets."""
    found: list[Example] = []
    for fact in facts:
        domains = fact["domains"]
        for caption in fact["captions"]:
            found.append(Example(caption, _target(domains)))
            for part in decompose(caption).subtasks:
                if part.text == caption:
                    continue
                own = _subject_domain(part.text, fact) if part.role == "subject" else domains[0]
                if own is not None:
                    found.append(Example(part.text, _target([own])))
    return found


def encode(encoder: MiniLMEncoder, texts: Sequence[str]) -> Tensor:
    """Pooled features (N, 384) of many texts; each different one is encoded once, among others of its length."""
    different = sorted(set(texts), key=lambda text: (len(text), text))
    features = torch.cat([encoder(different[i : i + 256]).pooled for i in range(0, len(different), 256)])
    place = {text: row for row, text in enumerate(different)}
    return features[torch.tensor([place[text] for text in texts])]


def train_on_labels(
    gate: TextSigmaGate, pooled: Tensor, target: Tensor, steps: int, generator: torch.Generator
) -> None:
    """Cross entropy against the domain shares; features get noise, so that paraphrases stay near."""
    optimiser = torch.optim.AdamW(gate.parameters(), lr=2e-3, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, max_lr=3e-3, total_steps=steps)
    for _ in range(steps):
        rows = torch.randint(len(pooled), (256,), generator=generator)
        noisy = pooled[rows] + 0.03 * torch.randn(256, pooled.shape[1], generator=generator)
        logits = gate(F.normalize(noisy, dim=-1), torch.rand(256, generator=generator))
        loss = F.cross_entropy(logits, target[rows], label_smoothing=0.02)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()


@torch.inference_mode()
def expert_predictions(
    experts: Path, latents: LatentSet, rng: np.random.Generator, count: int
) -> tuple[Tensor, Tensor, Tensor, list[str]]:
    """Gram form of the mixture's error, so that no prediction needs to be kept.

    For the residuals r_e = v_e - v of the experts on one noisy clip, the error of weights w that sum to 1 is
    w' G w with G = R R' / size. Returns G (N, E, E), sigma (N,), domain shares (N, E) and captions.
    """
    models = [load_denoiser(experts / f"expert-{domain}").eval() for domain in DOMAINS]
    grams, sigmas, targets, captions = [], [], [], []
    for _ in tqdm(range(0, count, 8), desc="expert predictions"):
        chosen = [int(i) for i in rng.integers(len(latents), size=8)]
        which = [int(rng.integers(latents.captions)) for _ in chosen]
        items = [latents.item(i, 0, c) for i, c in zip(chosen, which, strict=True)]
        data, texts, masks = (torch.stack(parts) for parts in zip(*items, strict=True))
        noise = torch.randn_like(data)
        sigma = torch.rand(len(data))
        noisy, velocity = flow.add_noise(data, noise, sigma), flow.target(data, noise)
        residuals = []
        for model in models:
            with torch.autocast("cpu", dtype=torch.bfloat16):
                residuals.append((model(noisy, sigma, texts, masks).float() - velocity).flatten(1))
        r = torch.stack(residuals, 1)  # (8, E, size)
        grams.append(r @ r.mT / r.shape[-1])
        sigmas.append(sigma)
        targets += [_target(latents.facts[i]["domains"]) for i in chosen]
        captions += [latents.facts[i]["captions"][c] for i, c in zip(chosen, which, strict=True)]
    return torch.cat(grams), torch.cat(sigmas), torch.tensor(targets), captions


def train_on_mixture(
    gate: TextSigmaGate,
    encoder: MiniLMEncoder,
    data: tuple[Tensor, Tensor, Tensor, list[str]],
    labels: tuple[Tensor, Tensor],
    steps: int,
    generator: torch.Generator,
) -> dict[str, float]:
    """Lower w' G w, where w mixes the parts of each caption as the pipeline will; labels keep the domains."""
    grams, sigmas, _, captions = data
    plans = [decompose(caption) for caption in captions]
    parts = [part.text for plan in plans for part in plan.subtasks]
    owner = torch.tensor([i for i, plan in enumerate(plans) for _ in plan.subtasks])
    share = torch.tensor([part.share for plan in plans for part in plan.subtasks])
    pooled = encode(encoder, parts)
    held = torch.arange(len(captions)) % 5 == 0

    def error(rows: Tensor) -> Tensor:
        chosen = rows[owner]
        weights = gate(pooled[chosen], sigmas[owner[chosen]]).softmax(-1) * share[chosen, None]
        mixed = torch.zeros(len(captions), weights.shape[-1]).index_add(0, owner[chosen], weights)[rows]
        return torch.einsum("ne,nef,nf->n", mixed, grams[rows], mixed).mean()

    before = float(error(held).detach())
    optimiser = torch.optim.AdamW(gate.parameters(), lr=5e-4, weight_decay=0.01)
    features, target = labels
    for _ in range(steps):
        rows = (torch.rand(len(captions), generator=generator) < 0.25) & ~held
        picked = torch.randint(len(features), (256,), generator=generator)
        label_loss = F.cross_entropy(
            gate(features[picked], torch.rand(256, generator=generator)), target[picked]
        )
        loss = 10.0 * error(rows) + 0.3 * label_loss
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return {"mixture_error_before": before, "mixture_error_after": float(error(held).detach())}


def calibrate_coverage(
    gate: TextSigmaGate, captions: Tensor, foreign: Tensor, held: Tensor
) -> dict[str, float]:
    """Prototypes by k-means over captions; the range runs from the foreign texts' 80th percentile to the held-out
    captions' 20th."""
    count = gate.prototypes.shape[0]
    sample = captions[torch.randperm(len(captions), generator=torch.Generator().manual_seed(0))[:12000]]
    centres = KMeans(count, n_init=1, random_state=0).fit(sample.numpy()).cluster_centers_
    gate.prototypes.copy_(F.normalize(torch.from_numpy(centres).float(), dim=-1))
    low = float(torch.quantile((foreign @ gate.prototypes.T).amax(-1), 0.8))
    high = float(torch.quantile((held @ gate.prototypes.T).amax(-1), 0.2))
    high = max(high, low + 0.05)  # texts that look alike must not turn the range round
    gate.coverage_range.copy_(torch.tensor([low, high]))
    return {"coverage_low": low, "coverage_high": high}


@torch.inference_mode()
def accuracy(
    gate: TextSigmaGate, encoder: MiniLMEncoder, texts: Sequence[str], domains: Sequence[Sequence[str]]
) -> float:
    """Share of texts whose heaviest expert, after decomposition, is one of the text's domains."""
    right = 0
    for text, allowed in zip(texts, domains, strict=True):
        plan = decompose(text)
        logits = gate(
            encode(encoder, [part.text for part in plan.subtasks]), torch.full((len(plan.subtasks),), 0.5)
        )
        mixed = (logits.softmax(-1) * torch.tensor([part.share for part in plan.subtasks])[:, None]).sum(0)
        right += DOMAINS[int(mixed.argmax())] in allowed
    return right / len(texts)


def paraphrases() -> list[tuple[str, list[str]]]:
    """Hand-written prompts that the caption grammar cannot make, with the domains a person would name."""
    data = yaml.safe_load(Path(__file__).with_name("paraphrases.yaml").read_text(encoding="utf-8"))
    return [(entry["text"], list(entry["domains"])) for entry in data]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--latents", required=True, nargs="+", help="folders of encoded training shards")
    parser.add_argument("--held", required=True, help="encoded held-out shards")
    parser.add_argument(
        "--experts", help="folder with expert-DOMAIN training folders; stage one only without it"
    )
    parser.add_argument("--out", required=True)
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--clips", type=int, default=640, help="noisy clips for stage two")
    arguments = parser.parse_args()
    clock = RunningClock(60.0, torch.device("cpu"))
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    rng = np.random.default_rng(0)
    encoder = MiniLMEncoder(TEXT_TOKENS)
    train_set = LatentSet(*[Path(folder) for folder in arguments.latents])
    held = LatentSet(Path(arguments.held))
    gate = TextSigmaGate(len(DOMAINS))
    labelled = examples(train_set.facts)
    pooled = encode(encoder, [e.text for e in labelled])
    target = torch.tensor([e.target for e in labelled])
    train_on_labels(gate, pooled, target, arguments.steps, generator)
    figures: dict[str, float] = {}
    if arguments.experts:
        predictions = expert_predictions(Path(arguments.experts), train_set, rng, arguments.clips)
        figures |= train_on_mixture(gate, encoder, predictions, (pooled, target), 300, generator)
    captions = [c for fact in held.facts for c in fact["captions"]]
    owners = [fact["domains"] for fact in held.facts for _ in fact["captions"]]
    foreign = yaml.safe_load(FOREIGN.read_text(encoding="utf-8"))
    figures |= calibrate_coverage(gate, pooled, encode(encoder, foreign), encode(encoder, captions))
    figures["held_out_captions"] = accuracy(gate, encoder, captions, owners)
    texts, domains = zip(*paraphrases(), strict=True)
    figures["paraphrases"] = accuracy(gate, encoder, texts, domains)
    clock.tick()
    out = Path(arguments.out)
    out.mkdir(parents=True, exist_ok=True)
    save_file({n: t.detach().contiguous() for n, t in gate.state_dict().items()}, out / "gate.safetensors")
    summary = {"samples": arguments.steps * 256, "minutes": clock.spent_s / 60, "validation": figures}
    (out / "summary.json").write_text(json.dumps(summary, indent=1))
    print(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
