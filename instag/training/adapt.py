"""Motion-aligned adaptation (paper section 3.3, METHOD.md section 6): what face and mouth draw, minimise and remove."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from instag import losses
from instag.camera import Camera
from instag.data.frame import FrameBatch
from instag.data.layout import Label
from instag.data.sampling import Curriculum, face_curriculum, mouth_curriculum
from instag.fields.structure import GaussianField
from instag.head import HeadRender, Key, Mode
from instag.kernels.beside import beside
from instag.losses_pixels import Compared, PixelRules, compare
from instag.render.gaussians import BranchRender
from instag.training.stage import BranchStage, Choice
from instag.training.targets import face_rules, is_key_colored, mouth_rules, pair_only

HAIR_CYCLE = 7  # hair takes part in one of so many steps
BEHIND_HEAD = -0.07  # head units, z; few-shot face Gaussians do not belong behind it
FACE_KEY = (30.0, 225.0)  # of 255: red and blue below, green above: a key-coloured Gaussian
MOUTH_KEY = (100.0, 180.0)
MOUTH_KEY_FROM = 2000  # step
HOOK_RANKS = (10, 50)  # the mouth's hook draws its rank anew in every step


class FaceStage(BranchStage):
    """Everything of the head except the inside of the mouth."""

    kind = "face"

    @property
    def key(self) -> Key:
        """Colour behind the face."""
        return "black" if self.config.losses.matte else "green"

    def curriculum(self) -> Curriculum:
        """From closed to open lips, then from open to closed eyes."""
        config, statistics = self.config, self.subject.dataset.statistics_of(self.subject.indices)
        return face_curriculum(statistics, self.steps, config.warmup, config.curriculum_interval)

    def ignores_hair(self, step: int) -> bool:
        """Whether hair is painted over in this step."""
        first, last = self.config.hair_ignored
        return first < step < last and step % HAIR_CYCLE != 0

    def choose(self, step: int) -> Choice:
        """Hair, geometry prior and perceptual patches come and go."""
        config = self.config
        prior = config.prior_from is not None and not self.training.long and step > config.prior_from
        interval, pause = config.depth_pause
        return replace(
            super().choose(step),
            ignore_hair=self.ignores_hair(step),
            prior=prior,
            depth=prior and step % interval > pause,
            patch=self.draw_patch(step),
        )

    def mode(self, choice: Choice) -> Mode:
        """The face alone on its key, with attention maps."""
        return Mode(mouth=False, attention=True, aligned=choice.aligned, key=self.key)

    def rules(self, choice: Choice) -> PixelRules:
        """What of a frame the face is compared with."""
        inside = self.head.single_branch
        return face_rules(self.config.losses, choice.ignore_hair, choice.prior, choice.depth, inside)

    def photometric_term(self, face: BranchRender, frames: FrameBatch, choice: Choice) -> dict[str, Tensor]:
        """The face against its target, and nothing else."""
        pair = compare(face.image, frames, self.head.key(self.key), pair_only(self.rules(choice)))
        return {"photometric": losses.photometric(pair.render, pair.target, self.config.losses.dssim)}

    def losses(self, render: HeadRender, frames: FrameBatch, choice: Choice) -> dict[str, Tensor]:
        """Photometric, alpha, attention, motion, then geometry prior and perceptual terms."""
        assert render.face is not None and render.face.motion is not None
        face, weights = render.face, self.config.losses
        total = face.motion.total
        sizes = (total.d_mean, total.d_rotation, total.d_opacity, total.d_scale, face.motion.offset)
        moved = beside(partial(losses.magnitude, *sizes, weight=weights.motion), sizes)  # both ways beside the pixels
        compared = compare(face.image, frames, self.head.key(self.key), self.rules(choice))
        if choice.patch is not None and not self.head.single_branch and not weights.matte:
            inside = losses.closed(frames.mask(Label.MOUTH))  # METHOD.md section 6: in the perceptual term's steps
            compared = replace(compared, target=losses.paint(compared.target, inside, self.head.key("green")))
        return {
            "photometric": losses.photometric(compared.render, compared.target, weights.dssim),
            **compared.terms,
            "motion": moved(),
            **self._lip_term(compared, frames),
            **self._perceptual_terms(compared, frames, choice),
        }

    def _lip_term(self, compared: Compared, frames: FrameBatch) -> dict[str, Tensor]:
        """What the lips weigh besides: a hundredth of the frame's pixels, and what one looks at."""
        weight = self.config.losses.lips
        if not weight:
            return {}
        inside = frames.lip_mask()
        return {"lips": weight * ((compared.render - compared.target).abs() * inside).mean()}

    def _perceptual_terms(self, compared: Compared, frames: FrameBatch, choice: Choice) -> dict[str, Tensor]:
        """Patches of the face with the lips hidden; in long mode also the lips alone."""
        size = choice.patch
        if self.perceptual is None or size is None:
            return {}
        key, lips = self.head.key("green"), frames.lip_mask()
        color, target = compared.render, compared.target
        shown = self.perceptual.patches(losses.paint(color, lips, key), losses.paint(target, lips, key), size)
        terms = {"lpips": self.config.losses.lpips * shown}
        if self.training.long:
            alone = self.perceptual.patches(losses.paint(color, ~lips, key), losses.paint(target, ~lips, key), size)
            terms["lpips_lips"] = self.config.losses.lpips_lips * alone
        return terms

    def removal(self, structure: GaussianField, camera: Camera, step: int) -> Tensor:
        """Key-coloured Gaussians and, few-shot, those behind the head."""
        gone = is_key_colored(structure.colors(camera.centers[0]), *FACE_KEY)
        if not self.training.long:
            gone |= structure.means[:, 2] < BEHIND_HEAD
        return gone


class MouthStage(BranchStage):
    """Teeth, tongue and oral cavity, hooked to the trained face."""

    kind = "mouth"

    def curriculum(self) -> Curriculum:
        """From wide-open mouths down to nearly closed ones."""
        config, statistics = self.config, self.subject.dataset.statistics_of(self.subject.indices)
        return mouth_curriculum(statistics, self.steps, config.warmup, config.curriculum_interval)

    def frozen(self, step: int) -> bool:
        """Whether only colours and the aligner learn, on black."""
        return step > self.steps - self.config.freeze_last

    def hook_rank(self) -> int:
        """Drawn anew in every step."""
        low, high = HOOK_RANKS
        return int(self.generator.integers(low, high + 1))

    def choose(self, step: int) -> Choice:
        """At the end only colours learn, and perceptual patches may join."""
        return replace(super().choose(step), frozen=self.frozen(step), patch=self.draw_patch(step))

    def key(self, choice: Choice) -> Key:
        """Colour behind the mouth."""
        return "black" if choice.frozen or self.config.losses.matte else "green"

    def mode(self, choice: Choice) -> Mode:
        """The mouth alone on its key."""
        return Mode(face=False, aligned=choice.aligned, key=self.key(choice))

    def photometric_term(self, mouth: BranchRender, frames: FrameBatch, choice: Choice) -> dict[str, Tensor]:
        """The mouth against its target, and nothing else."""
        rules = pair_only(mouth_rules(self.config.losses))
        pair = compare(mouth.image, frames, self.head.key(self.key(choice)), rules)
        return {"photometric": losses.photometric(pair.render, pair.target, self.config.losses.dssim)}

    def losses(self, render: HeadRender, frames: FrameBatch, choice: Choice) -> dict[str, Tensor]:
        """Photometric and alpha terms, and the aligner's offset."""
        assert render.mouth is not None and render.mouth.motion is not None
        mouth, weights, offset = render.mouth, self.config.losses, render.mouth.motion.offset
        moved = offset if offset is None else beside(partial(losses.magnitude, offset, weight=weights.motion), offset)
        compared = compare(mouth.image, frames, self.head.key(self.key(choice)), mouth_rules(weights))
        terms = {
            "photometric": losses.photometric(compared.render, compared.target, weights.dssim),
            **compared.terms,
        }
        if moved is not None:
            terms["motion"] = moved()
        if self.perceptual is not None and choice.patch is not None:
            shown = self.perceptual.patches(compared.render, compared.target, choice.patch)
            terms["lpips"] = weights.lpips * shown
        return terms

    def rates(self, step: int) -> tuple[dict[str, float], dict[str, float]]:
        """As the base; at the end the geometry and the universal field rest."""
        gaussians, fields = super().rates(step)
        if self.frozen(step):
            learning = ("sh_dc", "sh_rest", "aligner_grid", "aligner_network")
            return {name: gaussians[name] for name in learning}, {}
        return gaussians, fields

    def removal(self, structure: GaussianField, camera: Camera, step: int) -> Tensor:
        """Key-coloured Gaussians."""
        if step <= MOUTH_KEY_FROM:
            return torch.zeros(len(structure), dtype=torch.bool, device=structure.means.device)
        return is_key_colored(structure.colors(camera.centers[0]), *MOUTH_KEY)
