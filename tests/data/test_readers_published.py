"""Published data sets in small, in the layouts that their archives unpack to."""

import logging
import sys

import numpy as np
import pytest
from scipy.io import savemat

from trainer.config import UserError
from trainer.data.readers.cars196 import cars196
from trainer.data.readers.cub200 import cub200
from trainer.data.readers.deepfashion import consumer2shop, inshop
from trainer.data.readers.published import held_out
from trainer.data.readers.sop import sop


def write(path, *lines):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n")


def rows_of(table, *columns):
    """Each row as the end of its path and its label, with other columns."""
    return [
        (
            "/".join(table.path[row].split("/")[-2:]),
            table.label_names[table.label[row]],
            *(getattr(table, name)[row] for name in columns),
        )
        for row in range(len(table))
    ]


@pytest.fixture
def products(tmp_path):
    root = tmp_path / "Stanford_Online_Products"
    header = "image_id class_id super_class_id path"
    write(
        root / "Ebay_train.txt",
        header,
        *(f"{n} {(n + 1) // 2} 1 bicycle_final/{n}_0.JPG" for n in range(1, 11)),
    )
    write(
        root / "Ebay_test.txt",
        header,
        "11 11319 2 coffee_maker_final/a.JPG",
        "12 11319 2 coffee_maker_final/b.JPG",
        "13 11320 chair_final/c.JPG",
    )
    return tmp_path


def test_sop_holds_out_products_and_knows_super_classes(products):
    table = sop(str(products), val=2, val_seed=0)
    assert rows_of(table.in_split("test"), "category") == [
        ("coffee_maker_final/a.JPG", "11319", "coffee_maker"),
        ("coffee_maker_final/b.JPG", "11319", "coffee_maker"),
    ]
    assert table.problems == (
        f"{products}/Stanford_Online_Products/Ebay_test.txt:4: 3 fields, a row has 4",
    )
    train, val = table.in_split("train"), table.in_split("val")
    assert (len(train), len(val), len(train.classes), len(val.classes)) == (6, 4, 3, 2)
    assert not set(train.classes) & set(val.classes)
    again = sop(str(products / "Stanford_Online_Products"), val=2, val_seed=0)
    assert again.split.tolist() == table.split.tolist()
    others = [sop(str(products), val=2, val_seed=seed).split.tolist() for seed in range(1, 5)]
    assert any(split != table.split.tolist() for split in others)
    assert sop(str(products), val=0.2).in_split("val").classes.size == 1
    assert sop(str(products), val=0).splits == ("test", "train")


def test_sop_says_what_is_missing(products):
    (products / "Stanford_Online_Products/Ebay_test.txt").unlink()
    with pytest.raises(UserError, match=r"Stanford_Online_Products lacks Ebay_test\.txt of"):
        sop(str(products))
    with pytest.raises(UserError, match=r"lacks Ebay_train\.txt, Ebay_test\.txt"):
        sop(str(products.parent))
    write(products / "Stanford_Online_Products/Ebay_test.txt", "image_id class_id")
    with pytest.raises(UserError, match="holds no row of 4 fields"):
        sop(str(products))


@pytest.mark.parametrize("val", [-1, 1.5, 4, 0.9])
def test_too_many_classes_held_out_are_refused(val):
    with pytest.raises(ValueError, match="a share below 1 or a number of the 5 training classes"):
        held_out("aabbccddee", val, 0)
    assert len(held_out("aabbccddee", 3, 0)) == 3


@pytest.fixture
def shop(tmp_path):
    root = tmp_path / "In-shop Clothes Retrieval Benchmark"
    write(
        root / "Eval/list_eval_partition.txt",
        "8",
        "image_name item_id evaluation_status",
        "img/WOMEN/Dresses/id_01/01_1_front.jpg id_01 train",
        "img/WOMEN/Dresses/id_01/01_2_side.jpg  id_01  train",
        "img/WOMEN/Dresses/id_02/01_1_front.jpg id_02 train",
        "img/MEN/Denim/id_03/01_1_front.jpg id_03 train",
        "img/MEN/Denim/id_03/01_4_full.jpg id_03 train",
        "img/MEN/Denim/id_04/01_1_front.jpg id_04 query",
        "img/MEN/Denim/id_04/02_1_front.jpg id_04 gallery",
        "img/MEN/Denim/id_05/02_1_front.jpg id_05 probe",
    )
    write(
        root / "Anno/list_bbox_inshop.txt",
        "2",
        "image_name clothes_type pose_type x_1 y_1 x_2 y_2",
        "img/MEN/Denim/id_04/01_1_front.jpg 2 1 10 20 110 220",
    )
    (root / "Img/img").mkdir(parents=True)
    return root


def test_inshop_keeps_queries_and_gallery_apart(shop):
    table = inshop(str(shop.parent), val=1, val_seed=1, boxes=True)
    assert rows_of(table.in_split("test"), "domain", "category") == [
        ("id_04/01_1_front.jpg", "id_04", "query", "MEN/Denim"),
        ("id_04/02_1_front.jpg", "id_04", "gallery", "MEN/Denim"),
    ]
    assert table.path[0] == f"{shop}/Img/img/WOMEN/Dresses/id_01/01_1_front.jpg"
    (problem,) = table.problems
    assert problem.endswith("'probe' is not train, query or gallery")
    boxes = {row[0]: box for row, box in zip(rows_of(table), table.box, strict=True)}
    assert boxes.pop("id_04/01_1_front.jpg").tolist() == [10, 20, 100, 200]
    assert np.isnan(list(boxes.values())).all()
    val = table.in_split("val")
    assert len(val.classes) == 1
    assert val.domain.tolist() == ["query"] + ["gallery"] * (len(val) - 1)
    assert set(table.in_split("train").domain) == {""}


def test_inshop_without_its_archive_folders_and_without_boxes(shop):
    (shop / "Eval/list_eval_partition.txt").rename(shop / "list_eval_partition.txt")
    (shop / "Img/img").rename(shop / "img")
    (shop / "Img").rmdir()
    table = inshop(str(shop), val=0)
    assert table.path[0] == f"{shop}/img/WOMEN/Dresses/id_01/01_1_front.jpg"
    assert np.isnan(table.box).all()
    (shop / "img").rmdir()
    with pytest.raises(UserError, match=r"lacks Img/img or img of In-shop.*: give the folder"):
        inshop(str(shop))
    (shop / "Img").mkdir()
    (shop / "Img/img.zip").touch()
    with pytest.raises(UserError, match=r"lacks Img/img or img of .*: unpack .*/Img/img\.zip$"):
        inshop(str(shop))
    (shop / "list_eval_partition.txt").unlink()
    with pytest.raises(UserError, match=r"lacks Eval/list_eval_partition\.txt or list_eval"):
        inshop(str(shop))


def test_a_box_without_area_leaves_its_picture_whole_and_says_so(shop, caplog):
    with (shop / "Anno/list_bbox_inshop.txt").open("a") as file:
        file.write("img/MEN/Denim/id_04/02_1_front.jpg 2 1 50 20 50 220\n")
        file.write("img/MEN/Denim/id_03/01_1_front.jpg 2 1 50 20 60\n")
    with caplog.at_level(logging.WARNING, "trainer"):
        table = inshop(str(shop), val=0, boxes=True)
    assert np.isfinite(table.box).all(axis=1).sum() == 1
    first, second = (record.getMessage() for record in caplog.records)
    assert first.startswith("1 rows of boxes cannot be used")
    assert "list_bbox_inshop.txt:5: 6 fields, a row has 7" in first
    assert second == "1 boxes have no area: their pictures are taken whole"


def test_consumer2shop_has_each_picture_once(tmp_path):
    root = tmp_path / "Consumer-to-shop Clothes Retrieval Benchmark"
    place = "img/TOPS/Tank_Top"
    write(
        root / "Eval/list_eval_partition.txt",
        "4",
        "image_pair_name_1 image_pair_name_2 item_id evaluation_status",
        f"{place}/id_1/comsumer_01.jpg {place}/id_1/shop_01.jpg id_1 train",
        f"{place}/id_1/comsumer_02.jpg {place}/id_1/shop_01.jpg id_1 train",
        f"{place}/id_2/comsumer_01.jpg {place}/id_2/shop_01.jpg id_2 val",
        f"{place}/id_3/comsumer_01.jpg {place}/id_3/shop_01.jpg id_3 test",
        f"{place}/id_2/comsumer_01.jpg {place}/id_3/shop_01.jpg id_3 test",
    )
    write(
        root / "Anno/list_bbox_consumer2shop.txt",
        "1",
        "image_name clothes_type source_type x_1 y_1 x_2 y_2",
        f"{place}/id_1/shop_01.jpg 1 1 5 6 25 46",
    )
    (root / "Img/img").mkdir(parents=True)
    table = consumer2shop(str(tmp_path), boxes=True)
    assert rows_of(table, "split", "domain", "category") == [
        ("id_1/comsumer_01.jpg", "id_1", "train", "street", "TOPS/Tank_Top"),
        ("id_1/shop_01.jpg", "id_1", "train", "shop", "TOPS/Tank_Top"),
        ("id_1/comsumer_02.jpg", "id_1", "train", "street", "TOPS/Tank_Top"),
        ("id_2/comsumer_01.jpg", "id_2", "val", "street", "TOPS/Tank_Top"),
        ("id_2/shop_01.jpg", "id_2", "val", "shop", "TOPS/Tank_Top"),
        ("id_3/comsumer_01.jpg", "id_3", "test", "street", "TOPS/Tank_Top"),
        ("id_3/shop_01.jpg", "id_3", "test", "shop", "TOPS/Tank_Top"),
    ]
    assert table.box[1].tolist() == [5, 6, 20, 40]
    (problem,) = table.problems
    assert problem.endswith("id_2/comsumer_01.jpg comes as two different things")
    write(root / "Anno/list_bbox_consumer2shop.txt", "1", "h", f"{place}/x.jpg 1 1 5 6 25 wide")
    with pytest.raises(UserError, match="is not four numbers"):
        consumer2shop(str(tmp_path), boxes=True)


@pytest.fixture
def birds(tmp_path):
    root = tmp_path / "CUB_200_2011"
    kinds = ("001.Albatross", "002.Auklet", "003.Blackbird", "004.Bunting")
    write(root / "classes.txt", *(f"{n} {name}" for n, name in enumerate(kinds, start=1)))
    numbers = range(1, 9)
    write(root / "images.txt", *(f"{n} {kinds[(n - 1) // 2]}/{n}.jpg" for n in numbers))
    write(root / "image_class_labels.txt", *(f"{n} {(n + 1) // 2}" for n in numbers))
    write(root / "train_test_split.txt", *(f"{n} {n % 2}" for n in numbers))
    write(root / "bounding_boxes.txt", *(f"{n} {n}.0 2.0 30.0 40.5" for n in numbers))
    (root / "images").mkdir()
    return root


def test_cub_trains_on_the_first_half_of_the_classes(birds):
    table = cub200(str(birds.parent), boxes=True)
    assert rows_of(table, "split")[:5:2] == [
        ("001.Albatross/1.jpg", "001.Albatross", "train"),
        ("002.Auklet/3.jpg", "002.Auklet", "train"),
        ("003.Blackbird/5.jpg", "003.Blackbird", "test"),
    ]
    assert table.box[2].tolist() == [3, 2, 30, 40.5]
    published = cub200(str(birds), split="published", val=1)
    assert published.split[1::2].tolist() == ["test"] * 4
    assert sorted(published.split[::2].tolist()) == ["train"] * 3 + ["val"]


def test_cub_says_what_is_missing(birds):
    write(birds / "image_class_labels.txt", "1 1", "2 1")
    with pytest.raises(UserError, match=r"says nothing of picture 3 \(002\.Auklet/3\.jpg\)"):
        cub200(str(birds))
    (birds / "bounding_boxes.txt").unlink()
    with pytest.raises(UserError, match=r"lacks bounding_boxes\.txt of CUB_200_2011"):
        cub200(str(birds), boxes=True)


KINDS = ["AM General Hummer SUV 2000", "Acura RL Sedan 2012", "Ram C/V Cargo Van 2012", "Volvo"]


def struct_array(*rows):
    """Rows as MATLAB's struct array, 1 x N, each number an array of its own in a small type."""
    made = np.empty((1, len(rows)), [(name, object) for name in rows[0]])
    for place, row in enumerate(rows):
        made[0, place] = tuple(
            value if isinstance(value, str) else np.array([[value]], np.uint16)
            for value in row.values()
        )
    return made


def corners(number):
    return {"bbox_x1": 1, "bbox_y1": number, "bbox_x2": 30, "bbox_y2": 49}


def cell_array(texts):
    return np.array([texts], object)


def save_cars(path, *, compressed=True, **variables):
    path.parent.mkdir(parents=True, exist_ok=True)
    savemat(path, variables, do_compression=compressed)


def cars_together(root):
    rows = [
        {
            "relative_im_path": f"car_ims/{number:06d}.jpg",
            **corners(number),
            "class": (number + 1) // 2,
            "test": number % 2,
        }
        for number in range(1, 9)
    ]
    save_cars(
        root / "cars_annos.mat", annotations=struct_array(*rows), class_names=cell_array(KINDS)
    )
    (root / "car_ims").mkdir()


def cars_apart(root):
    """The devkit, whose classes come in any order, and the list of test pictures beside it."""
    save_cars(root / "devkit/cars_meta.mat", class_names=cell_array(KINDS))
    for part, kinds in (("train", [4, 1, 2, 3, 1]), ("test", [2, 3, 4])):
        rows = [
            {**corners(number), "class": kind, "fname": f"{number:05d}.jpg"}
            for number, kind in enumerate(kinds, start=1)
        ]
        name = "devkit/cars_train_annos" if part == "train" else "cars_test_annos_withlabels"
        save_cars(root / f"{name}.mat", annotations=struct_array(*rows))
        (root / f"cars_{part}").mkdir()
    unlabelled = [{**corners(1), "fname": "00001.jpg"}]
    save_cars(root / "devkit/cars_test_annos.mat", annotations=struct_array(*unlabelled))


def test_cars_in_one_folder(tmp_path):
    cars_together(tmp_path)
    table = cars196(str(tmp_path), boxes=True)
    assert rows_of(table, "split")[::2] == [
        ("car_ims/000001.jpg", KINDS[0], "train"),
        ("car_ims/000003.jpg", KINDS[1], "train"),
        ("car_ims/000005.jpg", KINDS[2], "test"),
        ("car_ims/000007.jpg", KINDS[3], "test"),
    ]
    assert table.path[0] == f"{tmp_path}/car_ims/000001.jpg"
    # Pixels 1 to 30 and 2 to 49, the first and the last inside, counted from 1.
    assert table.box[1].tolist() == [0, 1, 30, 48]
    published = cars196(str(tmp_path), split="published", val=1, val_seed=3)
    assert published.split[::2].tolist() == ["test"] * 4
    assert sorted(published.split[1::2].tolist()) == ["train"] * 3 + ["val"]
    assert np.isnan(published.box).all()


def test_cars_in_two_folders(tmp_path):
    cars_apart(tmp_path / "stanford_cars")
    table = cars196(str(tmp_path), split="published", boxes=True)
    assert rows_of(table, "split")[3:6] == [
        ("cars_train/00004.jpg", KINDS[2], "train"),
        ("cars_train/00005.jpg", KINDS[0], "train"),
        ("cars_test/00001.jpg", KINDS[1], "test"),
    ]
    assert table.path[0] == f"{tmp_path}/stanford_cars/cars_train/00001.jpg"
    # The same file name in both folders, each with a box of its own.
    assert table.box[4:6, 1].tolist() == [4, 0]
    by_class = cars196(str(tmp_path / "stanford_cars"))
    assert by_class.split.tolist() == [
        {True: "train", False: "test"}[kind in KINDS[:2]] for _, kind in rows_of(by_class)
    ]
    devkit = tmp_path / "stanford_cars/devkit"
    (devkit.parent / "cars_test_annos_withlabels.mat").rename(
        devkit / "cars_test_annos_withlabels.mat"
    )
    assert cars196(str(tmp_path)).split.tolist() == by_class.split.tolist()


def test_cars_say_what_is_missing(tmp_path, monkeypatch):
    with pytest.raises(UserError, match=r"lacks cars_annos\.mat, car_ims of .*: give the folder"):
        cars196(str(tmp_path))
    (tmp_path / "car_ims.tgz").touch()
    (tmp_path / "cars_annos.mat").touch()
    with pytest.raises(UserError, match=r"lacks car_ims of .*: unpack .*/car_ims\.tgz$"):
        cars196(str(tmp_path))
    apart = tmp_path / "apart"
    cars_apart(apart)
    (apart / "cars_test_annos_withlabels.mat").unlink()
    with pytest.raises(UserError, match=r"apart lacks cars_test_annos_withlabels\.mat or devkit/"):
        cars196(str(apart))
    (apart / "devkit/cars_test_annos.mat").rename(apart / "cars_test_annos_withlabels.mat")
    with pytest.raises(UserError, match=r"withlabels\.mat: its annotations have no class$"):
        cars196(str(apart))
    save_cars(apart / "devkit/cars_meta.mat", classes=cell_array(KINDS))
    with pytest.raises(UserError, match=r"cars_meta\.mat holds no class_names: it is not the pub"):
        cars196(str(apart))
    for name in ("scipy", "scipy.io"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(UserError, match=r"needs SciPy: pip install 'mildnet\[mat\]'"):
        cars196(str(apart))


@pytest.mark.parametrize("compressed", [True, False])
def test_a_damaged_mat_file_ends_in_one_line(compressed, tmp_path):
    cars_together(tmp_path)
    path = tmp_path / "cars_annos.mat"
    rows = struct_array({"relative_im_path": "a.jpg", **corners(1), "class": 1, "test": 0})
    save_cars(path, compressed=compressed, annotations=rows, class_names=cell_array(KINDS))
    whole = path.read_bytes()
    for share in np.linspace(0, 0.98, 40):
        path.write_bytes(whole[: int(share * len(whole))])
        with pytest.raises(UserError, match=r"cars_annos\.mat (is damaged|holds no)") as caught:
            cars196(str(tmp_path))
        assert "\n" not in str(caught.value)
    path.write_bytes(b"<html>Not found</html>" * 20)
    with pytest.raises(UserError, match=r"is damaged, or no \.mat file"):
        cars196(str(tmp_path))


def test_rows_of_cars_that_mean_nothing_are_named(tmp_path):
    cars_together(tmp_path)
    good = {"relative_im_path": "car_ims/1.jpg", **corners(1), "class": 1, "test": 0}
    rows = struct_array(
        good, {**good, "class": 5}, {**good, "class": 0}, good, {**good, "relative_im_path": 7}
    )
    rows[0, 3]["bbox_x1"] = np.empty((0, 0))
    path = tmp_path / "cars_annos.mat"
    save_cars(path, annotations=rows, class_names=cell_array(KINDS))
    table = cars196(str(tmp_path))
    assert len(table) == 1
    assert table.problems == (
        f"{path}:2: class 5 of 4",
        f"{path}:3: class 0 of 4",
        f"{path}:4: a field has no value of its kind",
        f"{path}:5: a field has no value of its kind",
    )
    save_cars(path, annotations=rows[:, 1:], class_names=cell_array(KINDS))
    with pytest.raises(UserError, match=r"no picture that can be used; the first: .*:1: class 5"):
        cars196(str(tmp_path))
