"""What a triangle is made of, and which label-map class each material belongs to."""

from __future__ import annotations

import numpy as np

from instag.data.layout import Label

SKIN, LIP_INNER, LID_EDGE, EYE, CAVITY, TEETH, TONGUE, EAR, NECK, TORSO, HAIR, GLASSES = range(1, 13)

# Class of each material; index 0 is "nothing hit".
MATERIAL_LABEL = np.zeros(13, np.uint8)
MATERIAL_LABEL[[SKIN, LIP_INNER, LID_EDGE, EYE, EAR, GLASSES]] = Label.HEAD
MATERIAL_LABEL[[CAVITY, TEETH, TONGUE]] = Label.MOUTH
MATERIAL_LABEL[NECK], MATERIAL_LABEL[TORSO], MATERIAL_LABEL[HAIR] = Label.NECK, Label.TORSO, Label.HAIR
