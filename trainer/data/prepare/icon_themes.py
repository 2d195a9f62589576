"""Icon themes of the desktop as an `items` data set: the same icon, drawn by several artists.

Which folder of a theme serves which size: freedesktop.org, Icon Theme Specification,
https://specifications.freedesktop.org/icon-theme-spec/latest/
"""

from __future__ import annotations

import configparser
import functools
import hashlib
import logging
import os
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from trainer.config import UserError
from trainer.data import files
from trainer.data.prepare.made import is_made, save_pictures, write_items, write_note
from trainer.data.progress import bar

log = logging.getLogger(__name__)

#: Where systems keep themes.
SOURCES = ("/usr/share/icons", "/usr/local/share/icons", "~/.local/share/icons")
#: Folder of a theme -> the Debian package that brings it.
THEMES = {
    "oxygen": "oxygen-icon-theme",
    "gnome": "gnome-icon-theme",
    "Tango": "tango-icon-theme",
    "mate": "mate-icon-theme",
    "elementary-xfce": "elementary-xfce-icon-theme",
    "Faenza": "faenza-icon-theme",
}
#: Contexts that themes call by several names, in lower case.
CONTEXTS = {
    "applications": "apps",
    "mimes": "mimetypes",
    "filesystems": "places",
    "internationals": "international",
}
#: A film strip is not the picture of one thing.
LEFT_OUT = {"animations"}
#: Of the names: half for the test, and of the other half one in ten for validation.
TEST_SHARE, VAL_SHARE = 0.5, 0.05
NOTE = "icon_themes.json"


@dataclass(frozen=True)
class Folder:
    """A folder of pictures as index.theme describes it; sizes in pixels."""

    name: str
    category: str
    size: int
    smallest: int
    largest: int

    def distance(self, size: int) -> tuple[bool, int]:
        """Return how ill it fits `size`, (False, 0) if it does: too small is worse than too large,
        as a picture scaled down keeps what it shows."""
        if size > self.largest:
            return True, size - self.largest
        return False, max(self.smallest - size, 0)


@dataclass(frozen=True)
class Icon:
    """A picture of a theme that may come into the data set."""

    name: str
    theme: str
    category: str
    path: str


def prepare(
    to: str,
    sources: Sequence[str] = (),
    *,
    themes: Sequence[str] = (),
    size: int = 64,
) -> None:
    """Make a folder with one PNG for each icon name and theme, and an `items.csv` over them.

    Label is the icon's name, domain its theme, category its context (`actions`, `apps`,
    `devices`, `mimetypes`, `places`, `status`, ...) as most of the themes with that name put it.
    Of each name and theme the folder that fits `size` best is taken, by the rules of the Icon
    Theme Specification, with the next larger one before the next smaller one. The picture is
    scaled to fit, and laid on white.

    Left out are links to another theme's icon; of several names for one picture, be they links
    or copies, all but one (the first of the themes as given, in it the name that most themes
    have, then the first in the alphabet); icons with nothing to see on white; animations; SVG
    files and icons `-symbolic`; and what is then left of names in one theme only, which have
    nothing to be found.

    A hash of the name decides its split: half of the names `test`, a twentieth `val`, the rest
    `train`. It does not depend on which themes are there.

    Args:
        to: local folder to make. One that this function made before is replaced, or kept if it
            was made with the same arguments.
        sources: folders that hold themes, the first that has a theme counts; default those of the
            system.
        themes: names of the themes' folders; default :data:`THEMES`.
        size: side of the pictures, pixels, 8 or more; default 64.

    Raises:
        UserError: a theme is not there, has no usable index.theme, or nothing is left; or the
            folder holds something else or cannot be written.
    """
    if size < 8:
        raise UserError(f"size is {size}: the pictures need 8 pixels a side or more")
    target = Path(files.absolute(to))
    places = _places(sources or SOURCES, themes or tuple(THEMES))
    arguments = {"size": size, "themes": [str(place) for place in places.values()]}
    if is_made(target, NOTE, ("images", "items.csv"), arguments):
        log.info("%s is already there", target)
        return
    icons = [icon for name, place in places.items() for icon in _icons(name, place, size)]
    kept = _distinct(icons, _pictures(icons, size))
    if not kept:
        raise UserError(f"no icon is in two of the themes {', '.join(places)}: name other themes")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with files.replaced_folder(target) as partial:
            _write(partial, kept)
            write_note(partial / NOTE, arguments)
    except OSError as error:
        raise UserError(f"cannot write {target}: {files.reason(error)}") from None


def split_of(name: str) -> str:
    """Return the split of an icon's name: `train`, `val` or `test`, by its hash."""
    share = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") / 2**64
    if share < TEST_SHARE:
        return "test"
    return "val" if share < TEST_SHARE + VAL_SHARE else "train"


def _places(sources: Sequence[str], themes: Sequence[str]) -> dict[str, Path]:
    """Return the folder of each theme."""
    roots = [Path(files.absolute(source)) for source in sources]
    places = {
        theme: root / theme
        for theme in themes
        for root in reversed(roots)
        if (root / theme / "index.theme").is_file()
    }
    missing = [theme for theme in themes if theme not in places]
    if missing:
        packages = [THEMES[theme] for theme in missing if theme in THEMES]
        debian = f" (Debian: apt install {' '.join(packages)})" if packages else ""
        raise UserError(
            f"no theme {', '.join(missing)} in {', '.join(map(str, roots))}: install it{debian}, "
            "or name the folders that hold themes with --source, or other themes with --theme"
        )
    if len(places) < 2:
        raise UserError(f"{themes[0]} is one theme: an icon is found in another one, name two")
    return {theme: places[theme] for theme in themes}


def _folders(place: Path) -> list[Folder]:
    """Return the folders of a theme in the order of its index.theme."""
    parser = configparser.RawConfigParser(strict=False, delimiters="=", comment_prefixes="#")
    try:
        parser.read_string(files.read_text(str(place / "index.theme")))
        head = parser["Icon Theme"]
        names = [
            *head.get("Directories", "").split(","),
            *head.get("ScaledDirectories", "").split(","),
        ]
        return [_folder(name, parser[name]) for name in map(str.strip, names) if name in parser]
    except (configparser.Error, KeyError, ValueError) as error:
        reason = str(error).split("\n", 1)[0]
        raise UserError(f"{place / 'index.theme'} cannot be used: {reason}") from None


def _folder(name: str, section: configparser.SectionProxy) -> Folder:
    size, scale = int(section["Size"]), int(section.get("Scale", "1"))
    kind = section.get("Type", "Threshold").lower()
    smallest = largest = size
    if kind == "scalable":
        smallest = int(section.get("MinSize", str(size)))
        largest = int(section.get("MaxSize", str(size)))
    elif kind == "threshold":
        threshold = int(section.get("Threshold", "2"))
        smallest, largest = size - threshold, size + threshold
    context = section.get("Context", "").strip().lower()
    category = CONTEXTS.get(context, context)
    return Folder(name, category, size * scale, smallest * scale, largest * scale)


def _icons(theme: str, place: Path, size: int) -> Iterator[Icon]:
    """Yield the icons of a theme, each from the folder that fits best, but for other themes'."""
    folders = [folder for folder in _folders(place) if folder.category not in LEFT_OUT]
    folders.sort(key=lambda folder: (folder.distance(size), -folder.size))
    found: dict[str, Icon] = {}
    for folder in folders:
        inside = place / folder.name
        for file in sorted(os.listdir(inside)) if inside.is_dir() else ():
            name, ending = os.path.splitext(file)
            if ending != ".png" or name.endswith("-symbolic") or name in found:
                continue
            found[name] = Icon(name, theme, folder.category, str(inside / file))
    home = os.path.realpath(place) + os.sep
    for _, icon in sorted(found.items()):
        if os.path.realpath(icon.path).startswith(home):
            yield icon


def _pictures(icons: Sequence[Icon], size: int) -> list[np.ndarray | None]:
    """Return the icons' pixels; None for those that cannot be read or show nothing."""
    with (
        bar("reading icons", len(icons)) as advance,
        ThreadPoolExecutor(os.cpu_count() or 1) as pool,
    ):
        pictures = []
        for icon, picture in zip(
            icons, pool.map(functools.partial(_picture, size=size), icons), strict=True
        ):
            if isinstance(picture, str):
                log.warning("left out: %s: %s", icon.path, picture)
                picture = None
            pictures.append(picture)
            advance(1)
    return pictures


def _picture(icon: Icon, size: int) -> np.ndarray | str | None:
    """Return an icon on white, uint8 (size, size, 3); None if it shows nothing; a text if it is
    no picture: why."""
    from PIL import Image

    try:
        with Image.open(icon.path) as file:
            front = file.convert("RGBA")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        return str(error).split("\n", 1)[0]
    scale = size / max(front.size)
    sides = [max(round(side * scale), 1) for side in front.size]
    front = front.resize((sides[0], sides[1]), Image.Resampling.LANCZOS)
    back = Image.new("RGBA", (size, size), "white")
    back.alpha_composite(front, ((size - sides[0]) // 2, (size - sides[1]) // 2))
    pixels = np.asarray(back.convert("RGB"))
    return None if pixels.min() == 255 else pixels


def _distinct(
    icons: Sequence[Icon], pictures: Sequence[np.ndarray | None]
) -> list[tuple[Icon, np.ndarray]]:
    """Return one icon of each picture, of the names that are in two themes or more."""
    shown = [
        (icon, pixels) for icon, pixels in zip(icons, pictures, strict=True) if pixels is not None
    ]
    themes = Counter(icon.name for icon, _ in shown)
    order = {theme: number for number, theme in enumerate(dict.fromkeys(i.theme for i in icons))}
    shown.sort(key=lambda pair: (order[pair[0].theme], -themes[pair[0].name], pair[0].name))
    first: dict[bytes, tuple[Icon, np.ndarray]] = {}
    for icon, pixels in shown:
        first.setdefault(pixels.tobytes(), (icon, pixels))
    left = Counter(icon.name for icon, _ in first.values())
    return [pair for pair in first.values() if left[pair[0].name] > 1]


def _write(folder: Path, kept: Sequence[tuple[Icon, np.ndarray]]) -> None:
    votes: dict[str, Counter[str]] = defaultdict(Counter)
    for icon, _ in kept:
        votes[icon.name][icon.category] += 1
    rows, chosen = [], []
    for icon, pixels in sorted(kept, key=lambda pair: (pair[0].name, pair[0].theme)):
        path = f"images/{icon.theme}/{icon.name}.png"
        # Counter keeps the order of first votes, and that is the order of the themes.
        category = votes[icon.name].most_common(1)[0][0]
        rows.append((path, icon.name, split_of(icon.name), icon.theme, category))
        chosen.append((folder / path, pixels))
    for theme in {icon.theme for icon, _ in kept}:
        (folder / "images" / theme).mkdir(parents=True)
    save_pictures(chosen)
    write_items(folder, ("path", "label", "split", "domain", "category"), rows)
