"""WebDataset shards: tar files in which an image and what is said of it share a name up to the first dot.

Own reading rather than the `webdataset` package, whose URLs may run commands (`pipe:`) and whose decoders unpickle.  Of
a shard the headers and the small members with labels or captions are read; an image is read from its place when it is
asked for.
"""

import json
import posixpath
from collections import defaultdict
from functools import partial

from workers.data.answers import read_answer
from workers.data.config import TaskKind, WebDatasetSource
from workers.data.decoding import UnreadableImage
from workers.data.files import FAULTS_OF_THE_DATA, MAX_BYTES, is_hidden, is_image_name, open_file, read_range
from workers.data.listing import Found, Item
from workers.data.locations import expand_braces
from workers.data.roots import DataRoots, printable
from workers.data.tars import Member, list_members

MAX_ANSWER_BYTES = 2**20
"""A longer label, caption or JSON is refused."""

_Images = list[tuple[tuple[str, ...], Item]]


def read_shards(uri: str, source: WebDatasetSource, *, kind: TaskKind, roots: DataRoots) -> Found:
    """The images of all shards, by `SHARD/SAMPLE`.

    ValueError for a shard that is missing, damaged or outside the roots, and for a sample whose label or caption is
    missing or none.
    """
    base, patterns = uri.partition("{")[0].rpartition("/")[0], expand_braces(uri)
    shards = {printable(shard.removeprefix(base).lstrip("/")): roots.check(shard) for shard in patterns}
    if len(set(shards.values())) < len(patterns):
        raise ValueError(f"Shards {uri!r} name one twice. Name every shard once.")
    images: _Images = []
    for name, location in shards.items():
        try:
            images += _read_shard(name, location, source, kind, roots)
        except FAULTS_OF_THE_DATA as error:
            raise ValueError(f"The shard {name!r} of {uri!r} does not exist or cannot be read.") from error
    return Found.of(images)


def _read_shard(name: str, location: str, source: WebDatasetSource, kind: TaskKind, roots: DataRoots) -> _Images:
    answer = (source.caption_extension if kind == "retrieval" else source.label_extension).lower()
    samples: dict[str, dict[str, Member]] = defaultdict(dict)
    contents: dict[str, bytes] = {}
    with open_file(location, roots) as file:
        try:
            for member in list_members(file):
                key, extension = _split_name(member.name)
                if is_hidden(member.name) or not extension:
                    continue
                if extension in samples[key]:
                    raise ValueError(f"{member.name!r} is there twice. Give every sample a name of its own")
                samples[key][extension] = member
                if extension == answer:
                    if member.size > MAX_ANSWER_BYTES:
                        raise ValueError(f"{member.name!r} has {member.size} bytes, more than {MAX_ANSWER_BYTES}")
                    file.seek(member.start)
                    contents[key] = file.read(member.size)
        except ValueError as error:
            raise ValueError(f"The shard {name!r} cannot be read: {error}.") from error
    images = []
    for key, members in samples.items():
        where = f"The shard {name!r}, sample {printable(key)!r}"
        image = _image(members, source, where)
        if key in contents:
            labels, captions = _answer(contents[key], answer, source, kind, where)
            read = partial(_read_member, location, image, roots)
            images.append((labels, Item(f"{name}/{printable(key)}", 0, None, read, captions=captions)))
        elif image is not None:
            raise ValueError(
                f"{where} has no {answer!r}; it has {', '.join(map(repr, members))}. Add it, or name another."
            )
    return images


def _split_name(name: str) -> tuple[str, str]:
    """Up to the first dot of the last part, and what comes after it in small letters."""
    folder, last = posixpath.split(name)
    stem, _, extension = last.partition(".")
    return posixpath.join(folder, stem), extension.lower()


def _image(members: dict[str, Member], source: WebDatasetSource, where: str) -> Member | None:
    if source.image_extension is not None:
        return members.get(source.image_extension.lower())
    found = [extension for extension in members if is_image_name(f"x.{extension}")]
    if len(found) > 1:
        raise ValueError(f"{where} has several images ({', '.join(map(repr, found))}). Name one in image_extension.")
    return members[found[0]] if found else None


def _answer(
    content: bytes, extension: str, source: WebDatasetSource, kind: TaskKind, where: str
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    name = extension
    try:
        value = content.decode()
        record = {name: value}
        if extension.endswith("json"):
            record, name = json.loads(value), source.caption_key if kind == "retrieval" else source.label_key
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{where}: {extension!r} cannot be read: {error}.") from error
    if not isinstance(record, dict):
        raise ValueError(f"{where}: {extension!r} is no JSON object. Give an object that holds {name!r}.")
    return read_answer(record, name, kind=kind, separator=source.label_separator, where=where)


def _read_member(location: str, member: Member | None, roots: DataRoots) -> bytes:
    if member is None:
        raise UnreadableImage("the sample has no image")
    if member.size > MAX_BYTES:
        raise UnreadableImage(f"{member.size} bytes exceed the limit of {MAX_BYTES}")
    content = read_range(location, roots, member.start, member.size)
    if len(content) < member.size:
        raise UnreadableImage("the shard has become shorter since it was listed")
    return content
