import pytest

from workers.data.roots import DataRoots, printable


@pytest.fixture
def roots(tmp_path):
    (tmp_path / "root" / "pets").mkdir(parents=True)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "root-twin").mkdir()
    return DataRoots((str(tmp_path / "root"),))


def test_a_path_under_a_root_is_resolved(roots, tmp_path):
    inside = str(tmp_path / "root" / "pets")
    assert roots.check(inside) == inside
    assert roots.check(f"file://{inside}") == inside
    assert roots.check("pets") == inside
    assert roots.check(str(tmp_path / "root" / "pets" / ".." / "pets")) == inside


def test_file_uris_are_percent_decoded(roots, tmp_path):
    assert roots.check(f"file://{tmp_path}/root/a%20b") == str(tmp_path / "root" / "a b")


@pytest.mark.parametrize(
    "path",
    [
        "elsewhere",
        "root/../elsewhere",
        "root/pets/../../elsewhere",
        "root-twin",
        "root-twin/x",
        "absent",
        "root/link/x",
    ],
)
def test_a_path_outside_every_root_is_refused(roots, tmp_path, path):
    (tmp_path / "root" / "link").symlink_to(tmp_path / "elsewhere")
    for uri in (str(tmp_path / path), f"file://{tmp_path / path}"):
        with pytest.raises(ValueError, match="outside the data roots"):
            roots.check(uri)


def test_relative_paths_cannot_climb_out(roots):
    with pytest.raises(ValueError, match="outside"):
        roots.check("../elsewhere")


def test_percent_encoded_dots_cannot_climb_out(roots, tmp_path):
    with pytest.raises(ValueError, match="outside"):
        roots.check(f"file://{tmp_path}/root/%2e%2e/elsewhere")


@pytest.mark.parametrize(
    "uri",
    ["http://x/y", "https://x/y", "s3://bucket/key", "memory://x", "local:///etc", "ftp://x/y", "S3://bucket/key"],
)
def test_schemes_that_are_off_are_refused(roots, uri):
    with pytest.raises(ValueError, match="uses the scheme"):
        roots.check(uri)


@pytest.mark.parametrize("uri", ["", "a\0b", "simplecache::s3://b/k", "zip://x::file:///etc/passwd", "file://host/etc"])
def test_chained_empty_and_hosted_locations_are_refused(tmp_path, uri):
    with pytest.raises(ValueError, match=r"is not one plain path|names a host"):
        DataRoots(("/",), ("file", "s3")).check(uri)


def test_remote_schemes_work_once_switched_on(tmp_path):
    roots = DataRoots((), ("s3", "hf"))
    assert roots.check("S3://bucket/a/b") == "s3://bucket/a/b"
    assert roots.check("hf://datasets/org/name") == "hf://datasets/org/name"
    for bad in ("s3://bucket/../other", "s3://"):
        with pytest.raises(ValueError, match="bucket or repository"):
            roots.check(bad)
    with pytest.raises(ValueError, match="scheme 'file'"):
        roots.check(str(tmp_path))


@pytest.mark.parametrize(
    "rest",
    [
        "ours/cohort",
        "ours/cohort/jobs/a.csv",
        "/ours/cohort/a.csv",
        "//ours/cohort/a.csv",
        "ours//cohort/a.csv",
        "ours/./cohort/a.csv",
        "ours/x/../cohort/a.csv",
        "ours@account.dfs.core.windows.net/cohort/a.csv",
        "Ours/cohort/a.csv",
        "key:secret@ours/cohort/a.csv",
        "arn:aws:s3:eu:1:accesspoint/ours/cohort/a.csv",
    ],
)
@pytest.mark.parametrize("scheme", ["s3", "gs", "abfs"])
def test_what_is_closed_is_closed_however_it_is_spelt(scheme, rest):
    roots = DataRoots((), ("s3", "gs", "abfs"), closed=(f"{scheme}://ours/cohort",))
    assert roots.check(f"{scheme}://ours/cohorts/a.csv") and roots.check(f"{scheme}://ours/pets/")
    with pytest.raises(ValueError, match=r"^Location '"):
        roots.check(f"{scheme}://{rest}")


def test_an_account_is_the_operators_to_name():
    roots = DataRoots((), ("abfs",), remote_roots=("abfs://box@account.dfs.core.windows.net/team",))
    assert roots.check("abfs://box@account.dfs.core.windows.net/team/pets")
    with pytest.raises(ValueError, match="outside the data roots"):
        roots.check("abfs://box@other.dfs.core.windows.net/team/pets")
    with pytest.raises(ValueError, match="not written plainly"):
        DataRoots((), ("s3",), remote_roots=("s3://shop//team",))


def test_a_relative_path_is_taken_from_the_first_root_that_has_it(tmp_path):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    (tmp_path / "two" / "data").mkdir()
    roots = DataRoots((str(tmp_path / "one"), str(tmp_path / "two")))
    assert roots.check("data") == str(tmp_path / "two" / "data")
    (tmp_path / "one" / "data").mkdir()
    assert roots.check("data") == str(tmp_path / "one" / "data")


def test_unknown_schemes_and_relative_roots_are_refused():
    with pytest.raises(ValueError, match="http"):
        DataRoots((), ("http",))
    with pytest.raises(ValueError, match="relative"):
        DataRoots(("data",))


def test_names_that_are_not_utf8_stay_printable():
    assert printable("caf\udce9.png") == "caf\\xe9.png"
