import struct
import zlib
from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from workers.data.decoding import MAX_PIXELS, UnreadableImage, decode_rgb
from workers.data.resizing import Resize, resize_image

# Pillow warns of damaged metadata and of large images; what becomes of them must not hang on a warning filter.
pytestmark = pytest.mark.filterwarnings("ignore:::PIL")


def encode(image, kind="PNG", **options):
    stream = BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def pixels(encoded):
    image = decode_rgb(encoded)
    assert image.mode == "RGB"
    return np.asarray(image)


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_header(width, height):
    size = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + size + chunk(b"IDAT", zlib.compress(b"\0" * 64))


def test_sixteen_bit_grey_is_scaled_not_cut():
    grey = np.array([[0, 32768, 65535]], dtype=np.uint16)
    assert pixels(encode(Image.fromarray(grey)))[0, :, 0].tolist() == [0, 128, 255]
    assert pixels(encode(Image.fromarray(grey), "TIFF"))[0, :, 0].tolist() == [0, 128, 255]


def test_a_dark_sixteen_bit_image_stays_dark():
    assert pixels(encode(Image.fromarray(np.array([[0, 1]], dtype=np.uint16)))).max() == 0


def test_floats_take_the_smallest_white_that_holds_them():
    for white in (1.0, 255.0, 65535.0):
        values = np.array([[0, white / 2, white]], dtype=np.float32)
        assert pixels(encode(Image.fromarray(values), "TIFF"))[0, :, 1].tolist() == [0, 128, 255]
    stretched = np.array([[-7, 3, 13]], dtype=np.float32)
    assert pixels(encode(Image.fromarray(stretched), "TIFF"))[0, :, 1].tolist() == [0, 128, 255]


def test_cmyk_becomes_rgb():
    red = pixels(encode(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "JPEG"))
    assert red[4, 4, 0] > 200 and red[4, 4, 1:].max() < 60


def test_lab_becomes_rgb():
    grey = Image.merge("LAB", [Image.new("L", (4, 4), level) for level in (255, 128, 128)])
    assert pixels(encode(grey, "TIFF")).min() > 245


def test_a_colour_declared_transparent_is_laid_on_white():
    image = Image.new("RGB", (2, 1), (9, 8, 7))
    image.putpixel((1, 0), (1, 2, 3))
    assert pixels(encode(image, transparency=(9, 8, 7))).tolist() == [[[255, 255, 255], [1, 2, 3]]]


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_transparency_is_laid_on_white(mode):
    clear = Image.new(mode, (4, 4), (0,) * len(mode))
    assert pixels(encode(clear)).min() == 255


def test_a_palette_with_transparency_is_laid_on_white():
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 40, 50, 60])
    image.putpixel((1, 0), 1)
    assert pixels(encode(image, transparency=0)).tolist() == [[[255, 255, 255], [40, 50, 60]]]
    assert pixels(encode(image)).tolist() == [[[10, 20, 30], [40, 50, 60]]]
    assert pixels(encode(image, transparency=b"\x80\xff"))[0, 0].tolist() == [132, 137, 142]


def test_one_bit_images_are_black_and_white():
    assert pixels(encode(Image.fromarray(np.array([[True, False]])))).tolist() == [[[255] * 3, [0] * 3]]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_rotation_is_applied(orientation):
    upright = np.zeros((16, 24, 3), dtype=np.uint8)
    upright[:8, :12] = 255  # one bright corner, top left
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: np.rot90(upright),
        7: np.rot90(upright, 2).transpose(1, 0, 2),
        8: np.rot90(upright, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    shown = pixels(encode(Image.fromarray(np.ascontiguousarray(stored)), "JPEG", exif=exif, quality=95))
    assert shown.shape == (16, 24, 3)
    assert np.abs(shown.astype(int) - upright).max() < 40


def test_damaged_exif_does_not_lose_the_image():
    damaged = encode(Image.new("RGB", (4, 4), "red"), "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\x7f")
    assert pixels(damaged).shape == (4, 4, 3)


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "TIFF"])
def test_an_animation_is_its_first_frame(kind):
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    first = pixels(encode(frames[0], kind, save_all=True, append_images=frames[1:]))
    assert first[4, 4, 0] > 200 and first[4, 4, 2] < 50


def test_one_pixel_is_an_image():
    image = decode_rgb(encode(Image.new("RGB", (1, 1), (1, 2, 3))))
    assert np.unique(resize_image(image, Resize(8)).reshape(3, -1), axis=1).ravel().tolist() == [1, 2, 3]


def test_every_cut_of_a_jpeg_is_unreadable_not_a_crash():
    whole = encode(Image.effect_noise((32, 32), 80), "JPEG")
    for length in range(0, len(whole) - 2, 37):
        with pytest.raises(UnreadableImage):
            decode_rgb(whole[:length])


def test_damaged_bytes_are_decoded_or_unreadable():
    rng = np.random.default_rng(0)
    for kind in ("PNG", "GIF", "TIFF", "BMP", "WEBP", "JPEG2000", "TGA", "PPM"):
        whole = np.frombuffer(encode(Image.effect_noise((16, 16), 80).convert("RGB"), kind), dtype=np.uint8)
        outcomes = set()
        for _ in range(25):
            damaged = whole.copy()
            damaged[rng.integers(0, len(whole), size=8)] = rng.integers(0, 256, size=8)
            try:
                outcomes.add(decode_rgb(damaged.tobytes()).mode)
            except UnreadableImage as error:
                outcomes.add(str(error)[:0])
        assert outcomes <= {"RGB", ""}


@pytest.mark.parametrize("junk", [b"", b"\0", b"not an image", b"\x89PNG\r\n\x1a\n", b"%!PS-Adobe-3.0 EPSF-3.0\n"])
def test_other_bytes_are_unreadable(junk):
    with pytest.raises(UnreadableImage):
        decode_rgb(junk)


@pytest.mark.parametrize("side", [9500, 13000, 60000])
def test_decompression_bombs_are_refused_before_a_pixel_is_decoded(side):
    assert side * side > MAX_PIXELS
    with pytest.raises(UnreadableImage, match=r"exceed|bomb"):
        decode_rgb(png_header(side, side))


@pytest.mark.parametrize("mode", ["shortest", "squash", "longest"])
@pytest.mark.parametrize("size", [(1, 5000), (5000, 1), (40, 30), (7, 7)])
def test_every_shape_becomes_the_square(mode, size):
    square = resize_image(Image.new("RGB", size, "white"), Resize(16, mode=mode))
    assert square.shape == (3, 16, 16) and square.dtype == np.uint8
    assert square.max() == 255


def test_shortest_crops_the_middle_and_longest_pads_with_black():
    image = Image.new("RGB", (30, 10), "red")
    image.paste("white", (10, 0, 20, 10))
    assert resize_image(image, Resize(10)).min(axis=(1, 2))[0] == 255
    assert resize_image(image, Resize(10))[1, 5, 5] == 255
    padded = resize_image(image, Resize(30, mode="longest"))
    assert padded[:, :10].max() == 0 and padded[:, 20:].max() == 0 and padded[0, 10:20].min() == 255


def test_shortest_follows_the_formula_of_torchvision():
    rng = np.random.default_rng(0)
    image = Image.fromarray(rng.integers(0, 256, size=(37, 61, 3), dtype=np.uint8))
    wide = image.resize((int(16 * 61 / 37), 16), Image.Resampling.BICUBIC)
    left = round((wide.width - 16) / 2.0)
    expected = np.asarray(wide.crop((left, 0, left + 16, 16))).transpose(2, 0, 1)
    assert np.array_equal(resize_image(image, Resize(16)), expected)
