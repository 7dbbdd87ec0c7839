"""A page in the browser: drop a recording or choose a camera, and see boxes over the video as it plays.

The server is `server.PageServer`, the app `app.create_app`. Recordings are decoded in processes of their own (`decoder_process`), which
import this package: so it imports nothing.
"""
