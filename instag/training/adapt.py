"""Motion-aligned adaptation (paper section 3.3, METHOD.md section 6): what face and mouth draw, minimise and remove."""

from __future__ import annotations

from dataclasses import replace

import torch
from gaussian_rasterization import RasterOutput
from torch import Tensor

from instag import losses
from instag.camera import Camera
from instag.config import TrainingConfig
from instag.data.frame import FrameBatch
from instag.data.layout import Label
from instag.data.sampling import Curriculum, face_curriculum, mouth_curriculum
from instag.fields.structure import GaussianField
from instag.head import HeadRender, Key, Mode, TalkingHead
from instag.metrics.lpips import LPIPS
from instag.render.gaussians import BranchRender
from instag.training.optimizers import GroupedOptimizer
from instag.training.stage import BranchStage, Choice, Subject
from instag.training.targets import face_pair, head_mask, is_key_colored, mouth_pair

HAIR_CYCLE = 7  # hair takes part in one of so many steps
BEHIND_HEAD = -0.07  # head units, z; few-shot face Gaussians do not belong behind it
FACE_KEY = (30.0, 225.0)  # of 255: red and blue below, green above: a key-coloured Gaussian
MOUTH_KEY = (100.0, 180.0)
MOUTH_KEY_FROM = 2000  # step
HOOK_RANKS = (10, 50)  # the mouth's hook draws its rank anew in every step


class FaceStage(BranchStage):
    """Everything of the head except the inside of the mouth."""

    def __init__(
        self,
        head: TalkingHead,
        subject: Subject,
        training: TrainingConfig,
        perceptual: LPIPS | None,
        name: str = "face",
        fields: GroupedOptimizer | None = None,
    ):
        self.perceptual = perceptual
        super().__init__(name, head, head.face, subject, training.face, training, fields)

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
            patch=self.draw_patch(self.perceptual, step),
        )

    def mode(self, choice: Choice) -> Mode:
        """The face alone on the green key, with attention maps."""
        return Mode(mouth=False, attention=True, aligned=choice.aligned, key="green")

    def photometric_term(self, face: BranchRender, frames: FrameBatch, choice: Choice) -> dict[str, Tensor]:
        """The face against its target."""
        pair = face_pair(face.image.color, frames, self.head.key("green"), choice.ignore_hair)
        return {"photometric": losses.photometric(*pair, self.config.losses.dssim)}

    def losses(self, render: HeadRender, frames: FrameBatch, choice: Choice) -> dict[str, Tensor]:
        """Photometric, alpha, attention, motion, then geometry prior and perceptual terms."""
        assert render.face is not None and render.face.motion is not None
        face, weights = render.face, self.config.losses
        terms = self.photometric_term(face, frames, choice)
        terms["alpha"] = weights.alpha * losses.alpha_coverage(face.image.alpha, head_mask(frames))
        # The universal field's maps, and the personalised field's where there is one: both are held back alike.
        audio_map, eye_map = (face.image.extra[:, i::2].sum(1, keepdim=True) for i in (0, 1))
        terms["attention_lips"] = weights.attention_lips * losses.masked_mean(eye_map, frames.lip_mask())
        if not choice.ignore_hair:
            hair = frames.mask(Label.HAIR)
            terms["attention_hair"] = weights.attention_hair * (
                losses.masked_mean(audio_map, hair) + losses.masked_mean(eye_map, hair)
            )
        total = face.motion.total
        terms["motion"] = weights.motion * losses.magnitude(
            total.d_mean, total.d_rotation, total.d_opacity, total.d_scale, face.motion.offset
        )
        return (
            terms | self._prior_terms(face.image, frames, choice) | self._perceptual_terms(face.image, frames, choice)
        )

    def _prior_terms(self, image: RasterOutput, frames: FrameBatch, choice: Choice) -> dict[str, Tensor]:
        """Depth and normals, where the prior is valid and the face shows (never inside the mouth)."""
        prior, weights = frames.prior, self.config.losses
        if prior is None:
            return {}
        normal = losses.to_camera_normals(image.normal, frames.condition.camera.world_to_camera)
        head = prior.valid & head_mask(frames)
        terms = {"normal": weights.normal * losses.normal_prior(normal, prior.normal, head)}
        if choice.depth:
            face = prior.valid & frames.mask(Label.HEAD)
            terms["depth"] = weights.depth * losses.depth_prior(image.depth, prior.depth, face, prior.valid)
        return terms

    def _perceptual_terms(self, image: RasterOutput, frames: FrameBatch, choice: Choice) -> dict[str, Tensor]:
        """Patches of the face with the lips hidden; in long mode also the lips alone."""
        size = choice.patch
        if self.perceptual is None or size is None:
            return {}
        key, lips = self.head.key("green"), frames.lip_mask()
        color, target = face_pair(image.color, frames, key, choice.ignore_hair)
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

    def __init__(
        self,
        head: TalkingHead,
        subject: Subject,
        training: TrainingConfig,
        perceptual: LPIPS | None,
        name: str = "mouth",
        fields: GroupedOptimizer | None = None,
    ):
        self.perceptual = perceptual
        assert head.mouth is not None
        super().__init__(name, head, head.mouth, subject, training.mouth, training, fields)

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
        return replace(super().choose(step), frozen=self.frozen(step), patch=self.draw_patch(self.perceptual, step))

    def key(self, choice: Choice) -> Key:
        """Colour behind the mouth."""
        return "black" if choice.frozen else "green"

    def mode(self, choice: Choice) -> Mode:
        """The mouth alone on its key."""
        return Mode(face=False, aligned=choice.aligned, key=self.key(choice))

    def photometric_term(self, mouth: BranchRender, frames: FrameBatch, choice: Choice) -> dict[str, Tensor]:
        """The mouth against its target."""
        pair = mouth_pair(mouth.image.color, frames, self.head.key(self.key(choice)))
        return {"photometric": losses.photometric(*pair, self.config.losses.dssim)}

    def losses(self, render: HeadRender, frames: FrameBatch, choice: Choice) -> dict[str, Tensor]:
        """Photometric and alpha terms, and the aligner's offset."""
        assert render.mouth is not None and render.mouth.motion is not None
        mouth, weights = render.mouth, self.config.losses
        terms = self.photometric_term(mouth, frames, choice)
        terms["alpha"] = weights.alpha * losses.alpha_coverage(mouth.image.alpha, frames.lip_mask())
        if mouth.motion.offset is not None:
            terms["motion"] = weights.motion * mouth.motion.offset.abs().mean()
        if self.perceptual is not None and choice.patch is not None:
            color, target = mouth_pair(mouth.image.color, frames, self.head.key(self.key(choice)))
            terms["lpips"] = weights.lpips * self.perceptual.patches(color, target, choice.patch)
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
