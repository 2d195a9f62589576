"""The sets of the product recognition solution of 2023 in small, laid out as they are unpacked."""

import numpy as np
from PIL import Image


def write(path, *lines):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n")


def paint(path, number, *, box=None, size=(40, 32)):
    """A picture whose colour tells its product; on white outside of `box` (x, y, w, h)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(number)
    colour = tuple(random.integers(0, 200, 3).tolist())
    x, y, w, h = box or (0, 0, *size)
    image = Image.new("RGB", size, "white")
    image.paste(colour, (x, y, x + w, y + h))
    image.save(path)


def product10k(folder, *, products=6, views=3, tested=2):
    """`Product10K`: products in groups of two; the list of test pictures knows no groups."""
    root = folder / "Product10K"
    train, test = ["name,class,group"], ["name,class,Usage"]
    for number in range(products * views):
        label = number // views
        train.append(f"{number}.jpg,{label},{label // 2}")
        paint(root / f"train/{number}.jpg", label)
    for number in range(products * tested):
        label = number // tested
        test.append(f"{number}.jpg,{label},{('Public', 'Private')[number % 2]}")
        paint(root / f"test/{number}.jpg", label)
    write(root / "train.csv", *train)
    write(root / "test_kaggletest.csv", *test)
    return root


def amazon_reviews(folder, counts=(3, 2, 1, 4), *, pictures="images_mean_50k"):
    """`Amazon-review`: as many pictures of each product as `counts` says."""
    root = folder / "Amazon-review"
    rows = ["image_path,label"]
    for label, count in enumerate(counts):
        for number in range(count):
            rows.append(f"{label}/{number}.jpg,{label}")
            paint(root / pictures / f"{label}/{number}.jpg", 100 + label)
    write(root / "amazon_review_mean_06_full_images.csv", *rows)
    return root


def challenge(folder, *, products=4, shown=2):
    """`development_test_data`: one query of each product, with a box; shop pictures on white."""
    root = folder / "development_test_data"
    queries = ["img_path,product_id,bbox_x,bbox_y,bbox_w,bbox_h"]
    gallery = ["img_path,product_id"]
    for label in range(products):
        paint(root / f"queries/{label}.jpg", 200 + label)
        queries.append(f"queries/{label}.jpg,{label},{label},2,20,16")
        for number in range(shown):
            name = f"gallery/{label}_{number}.png"
            paint(root / name, 200 + label, box=(4 + number, 6, 24, 20))
            gallery.append(f"{name},{label}")
    write(root / "queries.csv", *queries)
    write(root / "gallery.csv", *gallery)
    return root
