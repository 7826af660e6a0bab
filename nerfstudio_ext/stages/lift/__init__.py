"""From one photo to an object: preparing the photo, learning a word for it, refining the result.

`prepare` runs before a method is trained on it, `invert` teaches Stable Diffusion a word for what the photo shows, and
`refine` goes on from a finished run at a higher resolution.
"""
