"""One connection to a camera or a network stream: what FFmpeg may open for it, its frames, and why it ended."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

import av

from ultravid.datasets.readers.movie_container import ffmpeg_reason
from ultravid.datasets.video import DataError
from ultravid.serving.sources.listing import Source
from ultravid.serving.sources.live_options import LiveOptions

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream

__all__ = ["Connection", "ConnectionEndedError", "check_camera"]

_PROTOCOLS: Final = {
    "rtsp": "rtsp,rtp,srtp,udp,tcp,crypto",
    "rtsps": "rtsp,rtsps,rtp,srtp,udp,tcp,tls,crypto",
    "rtmp": "rtmp,tcp",
    "tcp": "tcp",
    "udp": "udp",
    "http": "http,tcp",
    "https": "https,http,tls,tcp,crypto",
}
# As of files, and what comes over a network; none of them leads to a file of this machine, because no protocol for files is allowed.
_FORMATS: Final = (
    "asf,avi,dv,flv,gif,h264,hevc,ivf,m4v,matroska,mov,mpeg,mpegts,mpegvideo,mxf,nut,ogg,rm,vc1,yuv4mpegpipe,"
    "rtsp,rtp,rtp_mpegts,sdp,hls,mpjpeg,mjpeg,live_flv"
)


class ConnectionEndedError(Exception):
    """A connection was lost, or never made; the text says why."""


class Connection:
    """One opening of a live source.

    Raises:
        ConnectionEndedError: there is no answer, or no video.
    """

    def __init__(self, source: Source, options: LiveOptions) -> None:
        self._timeout_s = options.read_timeout_s
        self._is_http = (source.address or "").lower().startswith("http")
        try:
            self.container: InputContainer = _open(source, options)
        except (av.FFmpegError, OSError, ValueError) as error:
            raise ConnectionEndedError(_reason(error, options.open_timeout_s)) from None
        if not self.container.streams.video or self.container.streams.video[0].codec_context is None:
            self.container.close()
            raise ConnectionEndedError("it has no video stream")
        self.stream: VideoStream = self.container.streams.video[0]
        self.stream.codec_context.thread_count = 1
        self.undecodable = 0
        self.damaged = 0

    @property
    def duration_s(self) -> float | None:
        """How long it is, if it is a recording that is sent; None if it is live."""
        return self.container.duration / av.time_base if self.container.duration else None

    @property
    def is_file(self) -> bool:
        """Whether a file is sent, which has a length; a sender that goes on for ever states none."""
        return self.duration_s is not None or (self._is_http and self.container.size > 0)

    def frames(self) -> Iterator[VideoFrame]:
        """The frames, from the first one that is whole, to the end of what is sent.

        Raises:
            ConnectionEndedError: nothing came for too long, or the connection broke.
        """
        is_begun = False
        packets = self.container.demux(self.stream)
        while True:
            try:
                packet = next(packets, None)
            except (av.FFmpegError, OSError) as error:
                raise ConnectionEndedError(_reason(error, self._timeout_s)) from None
            if packet is None:
                return
            try:
                found = self.stream.decode(packet)
            except (av.FFmpegError, OSError, ValueError):
                self.undecodable += 1
                continue
            for frame in found:
                is_begun = is_begun or not frame.is_corrupt
                if is_begun:  # who comes in the middle gets frames without those that they refer to
                    self.damaged += frame.is_corrupt
                    yield frame

    def close(self) -> None:
        """End the connection."""
        self.container.close()


def _open(source: Source, options: LiveOptions) -> InputContainer:
    timeout = (options.open_timeout_s, options.read_timeout_s)
    if source.camera is not None:
        return av.open(source.camera, "r", format="v4l2", timeout=timeout)
    assert source.address is not None
    scheme = urlsplit(source.address).scheme.lower()
    more = {"rtsp_transport": "tcp"} if scheme.startswith("rtsp") else {}
    opened = {
        "protocol_whitelist": _PROTOCOLS[scheme],
        "format_whitelist": _FORMATS,
        "analyzeduration": "2000000",
        **more,
    }
    return av.open(source.address, "r", options=opened, timeout=timeout)


def _reason(error: Exception, timeout_s: float) -> str:
    """Why a connection failed, without the address."""
    if isinstance(error, av.error.ExitError):
        return f"nothing came for {timeout_s:g} s"
    if isinstance(error, av.error.InvalidDataError):
        return "it does not send video of a known kind"
    return ffmpeg_reason(error)


def check_camera(device: str) -> None:
    """Refuse a camera that is not there or that this user may not read.

    Raises:
        DataError: it is so.
    """
    if not os.path.exists(device):
        there = sorted(p.name.removeprefix("video") for p in Path("/dev").glob("video*"))
        others = f"cameras that are there: {', '.join(there)}" if there else "there is no camera on this machine"
        raise DataError(f"{device}: there is no such camera ({others}).")
    if not os.access(device, os.R_OK):
        raise DataError(
            f"{device}: this camera can't be read ({os.strerror(errno.EACCES)}); on Linux its users are in the group 'video'."
        )
