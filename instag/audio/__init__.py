"""Speech features from sound: sound -> [T, W, D] per 25 fps frame (METHOD.md section 2).

    features, norm = instag.audio.features.extract("speech.wav", "phone-mel")

`features` is the door, `io` reads sound, `norm` keeps the record of the normalisation. Nothing is imported here:
reading and windowing ready features (`instag.data.audio`) and comparing norms need no video or speech package.
"""
