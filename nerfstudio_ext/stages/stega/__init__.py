"""Hide a message in the renders of a scene, and find it in any picture of it.

Nothing here knows how scenes are represented: the message, its key, the extractor and the attacks work on pictures.
"""
