"""Pages as data and as pictures: everything is where it is said to be, fits, and looks as it is said to."""

from itertools import combinations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import envs_jax
from envs_jax.render import glyphs, raster
from envs_jax.shop import icons, layout, picture
from envs_jax.shop.phrases import FIRST_ITEM


@pytest.fixture(scope="module")
def pages(shop, visits):
    """States of many pages, [n], their elements and texts."""
    states = jax.tree.map(lambda leaf: jnp.asarray(leaf.reshape(-1, *leaf.shape[2:])), visits[0])
    found, said = jax.jit(jax.vmap(lambda state: (shop.world.elements(state), shop.world.describe(state))))(states)
    return states, jax.tree.map(np.asarray, found), np.asarray(said), visits[1].reshape(len(states.steps), -1)


@pytest.fixture(scope="module")
def one_of_each(pages):
    """A state of every page."""
    states = pages[0]
    return [
        jax.tree.map(lambda leaf: leaf[np.flatnonzero(np.asarray(states.page) == page)[-1]], states)  # noqa: B023
        for page in range(len(layout.PAGES))
    ]


def test_elements_lie_on_the_page_and_apart(pages):
    """But for what lies in a card or in the task's panel, which holds it whole."""
    for places in layout.PLACES:
        for place in places:
            left, top, right, bottom = place.box
            assert 0 <= left < right <= layout.SIDE and 0 <= top < bottom <= layout.SIDE
        for one, two in combinations(places, 2):
            (a, b, c, d), (e, f, g, h) = one.box, two.box
            if one.kind in (layout.CARD, layout.PANEL) and (a <= e and b <= f and g <= c and h <= d):
                continue
            assert c <= e or g <= a or d <= f or h <= b, (one, two)


def test_every_text_fits_its_element(shop, pages):
    """Its columns end within the box, on pages of visits and for the longest words that could stand together."""
    _, found, _, _ = pages
    letters = picture.letters(shop.world.phrases, 1)
    states = np.asarray(pages[0].page)
    tables = layout.tables(1)
    font, start = tables.font[states], tables.text[states]
    known = found.text >= 0
    widths = np.where(known, letters.width[font[..., None], np.maximum(found.text, 0)], 0).sum(-1)
    widths += letters.space[font] * np.maximum(known.sum(-1) - 1, 0)
    # Of six words of a search the last may run off the page; those of the expert never do.
    query = np.zeros(found.kind.shape, bool)
    query[:, len(layout._HEADER)] = (states != layout.SEARCH) & (states != layout.DONE)
    over = (start[..., 0] + widths > found.box[..., 2]) & ~query
    assert not over.any(), [shop.world.phrases[i] for i in found.text[over][0] if i >= 0]
    # Values and attributes of all goods, alone in the narrowest place for them.
    goods = shop.world.goods
    values = np.unique(goods.values[goods.values >= 0])
    assert letters.width[layout.PLAIN][values].max() + 3 <= 51
    pairs = letters.width[layout.PLAIN][goods.attributes[:, :2].clip(0)].sum(1) + letters.space[layout.PLAIN]
    assert pairs.max() <= 125
    uses = np.where(goods.nouns[:, 2:] >= 0, letters.width[layout.PLAIN][goods.nouns[:, 2:].clip(0)], 0).sum(1)
    assert (uses + letters.width[layout.PLAIN][shop.world.book.id("for")]).max() + 3 * 3 <= 125


def test_links_of_elements_are_the_commands_and_texts_are_theirs(shop, pages):
    _, found, _, commands = pages
    texts = shop.world.book.links
    for page in range(len(found.kind)):
        linked = found.link[page]
        assert set(linked[linked >= 0]) == set(np.flatnonzero(commands[page]))
        for element in np.flatnonzero((linked >= 0) & (found.kind[page] != layout.CARD)):
            said = " ".join(shop.world.phrases[i] for i in found.text[page, element] if i >= 0)
            assert said == texts[linked[element]]


def test_the_description_is_the_text_of_the_page_and_never_cut(shop, pages):
    _, found, said, _ = pages
    for page in range(len(said)):
        whole = found.text[page][found.text[page] >= 0]
        assert len(whole) < said.shape[1]
        assert (said[page, : len(whole)] == whole).all() and (said[page, len(whole) :] == -1).all()
    # The fullest page there can be: bar, task, query, buttons, ten cards.
    assert said.shape[1] >= 1 + (1 + 3 + 2) + (1 + 6) + 2 + (1 + 6) + 3 + 3 + 10 * (1 + 1 + 2 + 2 + 4)


def test_the_task_alone_can_be_the_description(shop, pages):
    states = pages[0]
    world = envs_jax.make("shop/web_shop", products=400, text="goal")
    for lane in (0, 500):
        state = jax.tree.map(lambda leaf: leaf[lane], states)  # noqa: B023
        said = " ".join(world.phrases[i] for i in np.asarray(world.describe(state)) if i >= 0)
        item = world.goods.product(int(state.goal))
        wanted = [world.goods.vocabulary[i] for i in np.asarray(state.wanted) if i >= 0]
        options = [f"{group}: {value}" for group, value in zip(item["options"], wanted, strict=True)]
        parts = ["find me:", *item["asked"], *item["nouns"][:2], *(["with", *options] if options else [])]
        assert said == " ".join([*parts, "price lower than", f"{int(state.limit)}.00 dollars"])


@pytest.mark.parametrize("scale", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_text_is_written_as_raster_writes_it(scale):
    """Every line of a drawn page, pixel by pixel."""
    world = envs_jax.make("shop/small", scale=scale)

    def look(key):
        state, _ = world.step(world.reset(key), world.expert(world.reset(key), key))
        return world.render(state), world.elements(state)

    image, found = jax.tree.map(np.asarray, jax.jit(look)(jax.random.key(3)))
    assert image.shape == world.image_shape
    paper, most = raster.canvas(16 * scale, image.shape[1]), 64
    writers = [
        jax.jit(lambda ids, size=size, bold=bold: raster.text(paper, ids, 0, 0, size * scale, bold=bold))
        for size, bold in layout.FONTS
    ]
    places, starts, checked = layout.PLACES[layout.RESULTS], layout.tables(scale).text[layout.RESULTS], 0
    for element in np.flatnonzero(found.shown & (found.text >= 0).any(1)):
        place, (left, top) = places[element], starts[element]
        ids = glyphs.encode(" ".join(world.phrases[i] for i in found.text[element] if i >= 0))
        ids = np.append(np.asarray(ids), [-1] * (most - len(ids))).astype(np.int32)
        # The last row and column of a button are its border.
        rows, columns = 9 * scale, int(found.box[element, 2] - left - scale)
        ink = 1 - np.asarray(writers[place.font](ids))[:rows, :columns, :1] / 255.0
        ground, _, color = picture._COLORS[place.kind]
        if layout.PLACES[layout.RESULTS].index(place) >= len(layout._HEADER) + 5 and place.kind != layout.BUTTON:
            ground = picture._COLORS[layout.CARD][0]
        elif 2 <= element < len(layout._HEADER):
            ground = picture._COLORS[layout.PANEL][0]
        expected = np.array(ground) + ink * (np.array(color, float) - np.array(ground))
        seen = image[top : top + rows, left : left + columns]
        assert np.abs(seen - expected).max() <= 1.5, element
        checked += ink.max() > 0.5
    assert checked > 20


def test_pictures_have_the_products_color_and_shape(shop, pages):
    """Small ones on a card, the large one on an item, which takes the colour that is chosen."""
    world, (states, found, _, _) = shop.world, pages
    render = jax.jit(world.render)
    chosen = np.asarray(states.chosen)
    colors = np.array(
        [world.goods.vocabulary[i] in ("red", "green", "blue", "pink") for i in range(len(world.goods.vocabulary))]
    )
    painted = (np.asarray(states.page) == layout.ITEM) & (colors[chosen.clip(0)] & (chosen >= 0)).any(1)
    for page in (np.flatnonzero(painted)[0], np.flatnonzero(np.asarray(states.page) == layout.RESULTS)[0]):
        image = np.asarray(render(jax.tree.map(lambda leaf: leaf[page], states)))  # noqa: B023
        for element in np.flatnonzero(found.shown[page] & (found.kind[page] == layout.IMAGE)):
            left, top, right, bottom = found.box[page, element]
            area, edge = np.moveaxis(
                icons.atlas(int(right - left))[world.goods.icon[found.product[page, element]]], 2, 0
            )
            inside = (area == 255) & (edge == 0)
            tint = found.tint[page, element]
            color = world.goods.rgb[tint] if tint >= 0 else picture._PLAIN_TINT
            assert inside.sum() > 10 and (image[top:bottom, left:right][inside] == color).all()
    word = chosen[np.flatnonzero(painted)[0]]
    assert found.tint[np.flatnonzero(painted)[0]].max() in word


def test_a_chosen_value_stands_out(shop, pages):
    """The pill of the value that is chosen, and no other, is of another colour."""
    states, found, _, _ = pages
    page = np.flatnonzero(found.chosen.any(1))[0]
    image = np.asarray(jax.jit(shop.world.render)(jax.tree.map(lambda leaf: leaf[page], states)))
    chosen = np.asarray(states.chosen)[page]
    for element in np.flatnonzero(found.shown[page] & (found.kind[page] == layout.RADIO)):
        left, top, _, _ = found.box[page, element]
        expected = (
            picture._CHOSEN[0] if found.text[page, element, 0] in chosen else picture._COLORS[layout.RADIO][0]
        )
        assert tuple(image[top + 1, left + 2]) == expected


def test_every_page_looks_like_itself(shop, one_of_each):
    """No two pages look the same, and no page is left blank."""
    images = np.asarray(jax.jit(jax.vmap(shop.world.render))(jax.tree.map(lambda *x: jnp.stack(x), *one_of_each)))
    for one, two in combinations(images.astype(int), 2):
        assert (np.abs(one - two).max(axis=2) > 60).sum() > 200
    for image in images:
        assert (image[60:].min(axis=2) < 120).sum() > 100


def test_cards_are_numbered_as_they_are_clicked(shop, pages):
    """A click on "item k" opens the product whose picture stands beside it."""
    states, found, _, _ = pages
    page = np.flatnonzero(np.asarray(states.page) == layout.RESULTS)[-1]
    state = jax.tree.map(lambda leaf: leaf[page], states)
    state = state.replace(key=jax.random.key(0))
    pictures = found.product[page][(found.kind[page] == layout.IMAGE) & found.shown[page]]
    for number, product in enumerate(pictures):
        after, _ = shop.step(state, jnp.array([1, FIRST_ITEM + number, *[-1] * 5], jnp.int32))
        assert after.item == product


@pytest.mark.parametrize("side", [28, 64])
def test_all_shapes_can_be_told_apart(side):
    shapes = icons.atlas(side).astype(int)
    for one, two in combinations(range(len(shapes)), 2):
        assert (np.abs(shapes[one] - shapes[two]).max(-1) > 128).mean() > 0.04, (
            icons.SHAPES[one],
            icons.SHAPES[two],
        )
    assert ((shapes[..., 0] > 128).mean((1, 2)) > 0.06).all()
