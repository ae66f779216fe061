"""Makes the pictures beside it, in forms that the tests' own encoder cannot write. Needs Pillow."""

from pathlib import Path

from PIL import Image

HERE = Path(__file__).parent


def halves(mode, left, right):
    """A picture of 16 x 8 whose left half is `left` and whose right half is `right`."""
    picture = Image.new(mode, (16, 8), left)
    picture.paste(right, (8, 0, 16, 8))
    return picture


halves("CMYK", (0, 0, 0, 255), (0, 0, 0, 0)).save(HERE / "cmyk.jpg", quality=95)
halves("L", 0, 255).save(HERE / "progressive.jpg", quality=95, progressive=True)
exif = Image.Exif()
exif[0x0112] = 3  # Upside down, so that the right half comes to the left.
halves("L", 0, 255).save(HERE / "turned.jpg", quality=95, exif=exif)
frames = [halves("RGB", (0, 0, 0), (255, 255, 255)), halves("RGB", (255, 255, 255), (0, 0, 0))]
frames[0].save(HERE / "animated.webp", save_all=True, append_images=frames[1:], duration=100, lossless=True)
