"""The progress bar of indexing: audio done, speed as a multiple of real time, time left."""

from tqdm import tqdm

BAR_FORMAT = "{percentage:3.0f}%|{bar}| {done} of {whole} audio, {speed} x real time, {remaining} left"


class AudioBar(tqdm):
    """A bar whose unit is the second of audio, made with `total` in seconds."""

    def __init__(self, **kwargs):
        super().__init__(bar_format=BAR_FORMAT, smoothing=0, **kwargs)

    @property
    def format_dict(self):
        """Add to tqdm's fields those of `BAR_FORMAT`."""
        fields = dict(super().format_dict)
        speed = fields["n"] / fields["elapsed"] if fields["elapsed"] else 0.0
        return fields | {
            "done": clock(fields["n"]),
            "whole": clock(fields["total"] or 0),
            "speed": f"{speed:.1f}",
        }


def clock(seconds: float) -> str:
    """Write a time as m:ss, or h:mm:ss from one hour on.

    >>> clock(75.8), clock(3600)
    ('1:15', '1:00:00')
    """
    minutes, second = divmod(int(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02d}:{second:02d}" if hours else f"{minute}:{second:02d}"
