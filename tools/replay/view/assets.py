"""The files of the page, read once: HTML, CSS, JavaScript modules and the icon."""

from pathlib import Path

PAGE = Path(__file__).parent / "page"
MEDIA_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}


def read_assets() -> dict[str, tuple[bytes, str]]:
    """By URL path, the content and the media type of every file; `/` is the page itself."""
    found = {
        f"/{path.name}": (path.read_bytes(), MEDIA_TYPES[path.suffix])
        for path in sorted(PAGE.iterdir())
        if path.suffix in MEDIA_TYPES
    }
    found["/"] = found.pop("/index.html")
    return found
