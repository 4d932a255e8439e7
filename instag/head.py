"""`TalkingHead`: owns the fields of one person and the one forward path of training, evaluation and synthesis."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

import torch
from gaussian_rasterization.settings import Extent
from torch import Tensor, nn

from instag.data.frame import Condition
from instag.fields.aligner import Alignment, MotionAligner
from instag.fields.hook import HOOK_RANK, hook_displacement
from instag.fields.motion import HOOK, Deformation
from instag.fields.structure import GaussianField
from instag.kernels.beside import beside
from instag.render.composite import composite
from instag.render.gaussians import BranchRender, Motion, render_branch

Key = Literal["black", "green"]
KEY_COLORS: dict[Key, tuple[float, float, float]] = {"black": (0.0, 0.0, 0.0), "green": (0.0, 1.0, 0.0)}


@dataclass(frozen=True)
class Mode:
    """What of the head is drawn. The default is what synthesis uses."""

    face: bool = True
    mouth: bool = True
    moving: bool = True
    """Without motion the bare structure field is drawn (warm-up of pre-training)."""
    aligned: bool = True
    """Whether the motion aligner, where there is one, takes part."""
    attention: bool = False
    """Draw the face's attention maps."""
    hook_rank: int | Tensor = HOOK_RANK
    """See `hook_displacement`."""
    hook_expression: Literal["neutral", "live"] = "neutral"
    """Expression under which the hook reads the face; "live", the frame's own, is how the reference synthesizes."""
    extent: Extent = "exact"
    """Which pixels a Gaussian may reach; "three_sigma" is the reference's."""
    key: Key = "black"


DEFAULT_MODE = Mode()
REFERENCE_MODE = Mode(hook_expression="live", extent="three_sigma")  # draws what the reference's synthesis draws


@dataclass(frozen=True)
class HeadRender:
    """The branches that a `Mode` asked for, each on the key colour."""

    face: BranchRender | None
    mouth: BranchRender | None

    def over(self, background: Tensor, dilate: bool = False) -> Tensor:
        """Composite over [B, 3, H, W]; needs the face, drawn on black."""
        if self.face is None:
            raise ValueError("a composite needs the face: draw with Mode(face=True)")
        return composite(self.face.image, self.mouth and self.mouth.image, background, dilate)


@dataclass(frozen=True)
class Heard:
    """Where a branch's fields were asked and what they heard there, before they are told an expression or phi.

    Attributes:
        alignment: that moved the universal field's points, if any did.
        universal, personal: what `ListeningField.hear` returned; None: there is no personalised field.
    """

    alignment: Alignment | None
    universal: tuple[Tensor, Tensor]
    personal: tuple[Tensor, Tensor] | None


class Branch(nn.Module):
    """A structure field, the universal field that moves it, and what adapts that motion to this person.

    Args:
        structure: the person's Gaussians.
        motion: universal motion field, face or mouth.
        aligner: where the universal field is queried and how far it moves (adaptation).
        personal: field whose deformation is added (pre-training).
    """

    def __init__(
        self,
        structure: GaussianField,
        motion: nn.Module,
        aligner: MotionAligner | None = None,
        personal: nn.Module | None = None,
    ):
        super().__init__()
        self.structure = structure
        self.motion = motion
        self.aligner = aligner
        self.personal = personal

    def hear(self, audio: Tensor, aligned: bool) -> Heard:
        """The part of the motion by audio [B, 8, D, W] that every expression, or phi, shares."""
        heard = self.motion.listen(audio)  # beside the aligner too
        means = points = self.structure.means
        alignment = self.aligner(means) if aligned and self.aligner is not None else None
        if alignment is not None:
            points = means + alignment.offset
        universal = self.motion.encoding(points), heard()
        return Heard(alignment, universal, self.personal and self.personal.hear(means, audio))

    def express(self, heard: Heard, driver: Tensor) -> Motion:
        """Motion by what was heard and what drives the branch."""
        raise NotImplementedError

    def move(self, audio: Tensor, driver: Tensor, aligned: bool) -> Motion:
        """Motion by audio [B, 8, D, W] and what drives the branch."""
        return self.express(self.hear(audio, aligned), driver)


class FaceBranch(Branch):
    """Everything of the head except the inside of the mouth."""

    def express(self, heard: Heard, driver: Tensor) -> Motion:
        """Driven by an expression [B, 6]; the aligner's scale multiplies the universal d_mean."""
        universal, alignment = self.motion.express(*heard.universal, driver), heard.alignment
        if alignment is not None:
            scale = alignment.scale[None]  # [1, N, 3]: its gradient is no sum where there is one frame
            universal = replace(universal, d_mean=universal.d_mean * scale)
        personal = heard.personal and self.personal.express(*heard.personal, driver)
        return _sum(universal, personal, alignment)


class MouthBranch(Branch):
    """Teeth, tongue, oral cavity."""

    def express(self, heard: Heard, driver: Tensor) -> Motion:
        """Driven by the hook's phi [B, 3]; the aligner only moves the points."""
        universal = self.motion.express(*heard.universal, driver)
        return _sum(universal, heard.personal and self.personal.express(*heard.personal), heard.alignment)


def _sum(universal: Deformation, personal: Deformation | None, alignment: Alignment | None) -> Motion:
    total = universal if personal is None else universal + personal
    return Motion(total, universal, personal, alignment and alignment.offset)


class TalkingHead(nn.Module):
    """Face and mouth of one person (METHOD.md sections 1, 4 and 6).

    Args:
        face: everything of the head except the inside of the mouth.
        mouth: teeth, tongue, oral cavity; None before its stage.
        hooked: whether the mouth is told how far the face opens; else phi = 0.
        single_branch: whether the face draws the inside of the mouth too, and there never is a mouth.
    """

    def __init__(
        self, face: FaceBranch, mouth: MouthBranch | None = None, hooked: bool = True, single_branch: bool = False
    ):
        super().__init__()
        self.hooked = hooked
        self.single_branch = single_branch
        self.face = face
        self.mouth = mouth
        for name, color in KEY_COLORS.items():
            self.register_buffer(f"key_{name}", torch.tensor(color), persistent=False)

    def key(self, name: Key) -> Tensor:
        """A key colour on the head's device, [3]."""
        return getattr(self, f"key_{name}")

    def forward(self, condition: Condition, mode: Mode = Mode()) -> HeadRender:
        """Draw the head under B conditions.

        The mouth is hooked to the face's motion, aligned and scaled and with the expression (neutral, e = 0) that the
        mode says, without a gradient to the face: the same in training and in synthesis.
        """
        key = self.key(mode.key)
        heard = self.face.hear(condition.audio, mode.aligned) if mode.face and mode.moving else None
        mouth = None
        if mode.mouth and self.mouth is not None:
            mouth = partial(self._draw_mouth, condition, mode, key, heard)
            if mode.face:
                mouth = beside(mouth, condition, heard)
        face = self._draw_face(condition, mode, key, heard) if mode.face else None
        return HeadRender(face, mouth and mouth())

    def _draw_face(self, condition: Condition, mode: Mode, key: Tensor, heard: Heard | None) -> BranchRender:
        branch = self.face
        motion = heard and branch.express(heard, condition.expression)
        return render_branch(branch.structure, condition.camera, key, motion, mode.attention, mode.extent)

    def _draw_mouth(self, condition: Condition, mode: Mode, key: Tensor, heard: Heard | None) -> BranchRender:
        branch = self.mouth
        assert branch is not None
        motion = None
        if mode.moving:
            phi = beside(partial(self.hook, condition, mode, heard), condition, heard)
            own = branch.hear(condition.audio, mode.aligned)
            motion = branch.express(own, phi())
        return render_branch(branch.structure, condition.camera, key, motion, extent=mode.extent)

    @torch.no_grad()
    def hook(self, condition: Condition, mode: Mode, heard: Heard | None = None) -> Tensor:
        """Face-Mouth Hook: phi [B, 3] from the face's motion (paper Eq. 10); 0 where the head is not hooked.

        heard: by the face under the same audio and alignment, where it was drawn; None: it listens for the hook alone.
        """
        live = condition.expression
        if not self.hooked:
            return live.new_zeros(len(live), HOOK)
        expression = live if mode.hook_expression == "live" else torch.zeros_like(live)
        motion = self.face.express(heard or self.face.hear(condition.audio, mode.aligned), expression)
        return hook_displacement(motion.total.d_mean, mode.hook_rank)
