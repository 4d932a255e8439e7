"""What `instag --help` and the `--help` of each verb say besides their flags: a sentence or two, and examples."""

DESCRIPTION = """A talking 3D head from a few seconds of video.

    instag process clip.mp4 data/anna
    instag adapt data/anna output/anna
    instag synthesize output/anna speech.wav anna.mp4
    instag evaluate output/anna data/anna output/anna/report

Each verb explains itself: instag adapt --help."""

LESSONS = {
    "process": """Landmarks, head pose, masks, background, torso, action units, audio features; without a download.
Look at FOLDER/contact_sheet.jpg before you train.

    instag process clip.mp4 data/anna
    instag process interview.mov data/ben --best 20 --fix-lag""",
    "features": """A subject folder gets the features of its own sound, and its packed file is written anew.

    instag features speech.wav speech.npy
    instag features data/anna --audio-extractor hubert""",
    "pack": """Training, synthesis and evaluation run from it, on any machine.
For folders that another program of the field made.

    instag pack data/anna
    instag pack data/anna anna.instag""",
    "adapt": """Three stages: face, mouth, fuse. Interrupted and started again with the same arguments, it continues.
The preset adapt, as published, leaves a rim of green at the lips; the second line below leaves none.

    instag adapt data/anna output/anna --n-views 125
    instag adapt data/anna output/clean --set training.face.losses.matte=0.5 --set training.mouth.losses.matte=0.5
    instag adapt anna.instag output/quick --preset demo --set training.face.iterations=800 --set training.seed=3""",
    "pretrain": """Once for all people: adaptation starts from them.

    instag pretrain data/pretrain output/universal --ids anna ben carla
    instag adapt data/dora output/dora --universal output/universal/universal.safetensors""",
    "synthesize": """The video's tags say that it is synthetic, by which version and of which avatar.

    instag synthesize output/anna speech.wav anna.mp4
    instag synthesize anna.safetensors speech.npy frames/ --poses test --blink natural""",
    "evaluate": """Writes metrics.json, report.html, side_by_side.mp4 and the lossless frames into OUTPUT.

    instag evaluate output/anna data/anna output/anna/report""",
    "speaker": """Exact ground truth (pose, masks, landmarks, mouth opening) goes beside it.

    instag speaker speaker.mp4 --identity 5 --style 5 --seconds 10""",
    "doctor": """Frame rate, shots, face, light, sharpness, sound, lip sync: good, usable or not usable, and what to do.

    instag doctor clip.mp4
    instag doctor""",
    "import-reference": """Nothing in the files is executed. Audio features and sizes are read off the tensors' shapes.

    instag import-reference chkpnt_ema_face_latest.pth chkpnt_ema_mouth_latest.pth universal.safetensors
    instag import-reference chkpnt_fuse_latest.pth output/anna --subject data/anna --as-reference""",
}
