"""NumberLine against a plain Python class, its pictures, and what an agent is told."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import TypeCheckError

import envs_jax
from envs_jax.cards.number_line import NumberLine, State
from envs_jax.render import glyphs, raster

SMALL = (60, 80, 3)


class PlainNumberLine:
    """The rules as one would write them down, one episode, Python integers."""

    def __init__(self, max_position, start, goal):
        self.max_position = max_position
        self.position = start
        self.goal = (goal + 1) % max_position if start == goal else goal
        self.steps = 0

    def step(self, action):
        """(reward, terminated, truncated)"""
        distance = abs(self.goal - self.position)
        if action == 0 and self.position > 0:
            self.position -= 1
        if action == 1 and self.position < self.max_position:
            self.position += 1
        self.steps += 1
        if self.position == self.goal:
            return 1.0, True, False
        nearer = abs(self.goal - self.position) < distance
        return (0.0 if nearer else -1.0), False, self.steps >= 2 * self.max_position


@functools.partial(jax.jit, static_argnums=(0, 1))
def written(side, lines):
    """A white square with lines of (words, left, top, size)."""
    image = raster.canvas(side, side)
    for words, left, top, size in lines:
        image = raster.text(image, glyphs.encode(words), left, top, size, bold=True)
    return image


def state_of(position, goal, steps=0):
    return State(key=jax.random.key(0), steps=jnp.int32(steps), position=jnp.int32(position), goal=jnp.int32(goal))


@pytest.fixture(scope="module")
def world():
    return envs_jax.make("cards/number_line", image_shape=SMALL)


@pytest.mark.parametrize("max_position", [5, 2, 12])
def test_random_episodes_are_those_of_the_plain_rules(max_position):
    world = NumberLine(max_position=max_position)
    step = jax.jit(world.step)
    random = np.random.default_rng(max_position)
    ends = set()
    for _ in range(40):
        start, goal = (int(random.integers(max_position + 1)) for _ in range(2))
        plain = PlainNumberLine(max_position, start, goal)
        state = state_of(start, plain.goal)
        usual = random.random()  # some episodes drift, so that all kinds of end are met
        for _ in range(2 * max_position + 2):  # two steps beyond the end, too
            action = int(random.choice([0, 1, -1, 2, 77], p=[0.95 * usual, 0.95 * (1 - usual), 0.02, 0.02, 0.01]))
            expected = plain.step(action)
            state, result = step(state, jnp.int32(action))
            got = float(result.reward), bool(result.terminated), bool(result.truncated)
            assert got == expected
            assert bool(result.success) == expected[1]
            assert (int(state.position), int(state.goal), int(state.steps)) == (
                plain.position,
                plain.goal,
                plain.steps,
            )
            ends.add(expected)
    assert {(1.0, True, False), (0.0, False, False), (-1.0, False, False), (-1.0, False, True)} <= ends


@pytest.mark.parametrize("max_position", [5, 2])
def test_resets_draw_start_and_goal_as_upstream_does(max_position):
    """Both uniform on 0..max_position, and an equal goal becomes (goal + 1) % max_position."""
    world = NumberLine(max_position=max_position)
    count = 20_000
    states = jax.jit(jax.vmap(world.reset))(jax.random.split(jax.random.key(1), count))
    got = np.zeros((max_position + 1, max_position + 1))
    np.add.at(got, (np.asarray(states.position), np.asarray(states.goal)), 1 / count)
    expected = np.zeros_like(got)
    for start in range(max_position + 1):
        for goal in range(max_position + 1):
            plain = PlainNumberLine(max_position, start, goal)
            expected[start, plain.goal] += 1 / got.size
    assert (np.diag(expected) == 0).all()
    assert ((got > 0) == (expected > 0)).all()
    np.testing.assert_allclose(got, expected, atol=5 * np.sqrt(expected.max() / count))


def test_an_invalid_answer_moves_nothing_costs_a_step_and_is_rewarded_as_not_nearer(world):
    for action in (envs_jax.INVALID, 2, -5):
        after, result = world.step(state_of(1, 4), jnp.int32(action))
        assert (int(after.position), int(after.goal), int(after.steps)) == (1, 4, 1)
        assert float(result.reward) == -1 and not result.terminated and not result.success


def test_the_last_step_that_reaches_the_goal_terminates_and_does_not_truncate(world):
    _, result = world.step(state_of(3, 4, steps=9), jnp.int32(1))
    assert result.terminated and result.success and not result.truncated
    _, result = world.step(state_of(2, 4, steps=9), jnp.int32(1))
    assert result.truncated and not result.terminated and float(result.reward) == 0


def test_the_expert_takes_the_shortest_way_from_everywhere(world):
    for position in range(6):
        for goal in range(6):
            state, steps = state_of(position, goal), 0
            while int(state.position) != goal:
                action = world.expert(state, jax.random.key(steps))
                assert world.admissible(state)[action]
                state, result = world.step(state, action)
                steps += 1
                assert float(result.reward) == float(int(state.position) == goal)
            assert steps == abs(goal - position)


def test_only_actions_that_move_are_admissible(world):
    for position in range(6):
        allowed = np.asarray(world.admissible(state_of(position, 3)))
        moved = [int(world.step(state_of(position, 3), jnp.int32(a))[0].position) != position for a in (0, 1)]
        assert allowed.tolist() == moved


def test_the_thought_is_the_two_numbers_read_from_the_picture(world):
    def words(ids):
        return " ".join(world.phrases[i] for i in np.asarray(ids) if i >= 0)

    assert words(world.explain(state_of(3, 5))) == "3 to 5"
    assert words(world.explain(state_of(0, 2))) == "0 to 2"
    assert words(world.describe(state_of(3, 5))) == ""
    assert world.actions == ("-", "+") and len(world.instruction) < 120
    wide = NumberLine(max_position=12)
    assert " ".join(wide.phrases[i] for i in np.asarray(wide.explain(state_of(12, 10)))) == "12 to 10"


def test_the_picture_is_upstreams_layout():
    world = envs_jax.make("cards/number_line")
    assert world.image_shape == (300, 300, 3) and world.max_steps == 10
    picture = np.asarray(jax.jit(world.render)(state_of(2, 5)))
    expected = written(300, (("Target: 5", 30, 60, 36), ("Current: 2", 30, 180, 36)))
    np.testing.assert_allclose(picture.astype(int), np.asarray(expected, int), atol=1)
    dark = picture[:, :, 0] < 128
    rows, columns = np.flatnonzero(dark.any(axis=1)), np.flatnonzero(dark.any(axis=0))
    assert 30 <= columns[0] < 34 and columns[-1] < 230  # at 30, and within the picture
    upper, lower = rows[rows < 150], rows[rows >= 150]
    for band, top in ((upper, 60), (lower, 180)):
        assert top < band[0] < top + 12 and band[-1] < top + 46
    assert (picture[:56] == 255).all() and (picture[110:176] == 255).all()


@pytest.mark.parametrize("shape", [SMALL, (64, 64, 3), (48, 48, 3), (96, 128, 3)])
def test_small_pictures_are_scaled_and_every_pair_of_numbers_can_be_read(shape):
    """A reader that knows each digit's picture finds both numbers, whatever the other one is."""
    world = NumberLine(image_shape=shape)
    pairs = [(p, g) for p in range(6) for g in range(6)]
    states = jax.tree.map(lambda *x: jnp.stack(x), *(state_of(p, g) for p, g in pairs))
    pictures = np.asarray(jax.jit(jax.vmap(world.render))(states)).astype(int)
    assert pictures.shape == (36, *shape)
    middle = shape[0] // 2
    for half, which in ((slice(0, middle), 1), (slice(middle, None), 0)):
        seen = pictures[:, half]
        first = {pair[which]: view for pair, view in zip(pairs, seen, strict=True)}
        for pair, view in zip(pairs, seen, strict=True):
            apart = {number: np.abs(view - known) for number, known in first.items()}
            assert apart.pop(pair[which]).max() == 0  # the same number is the same picture
            assert min(difference.max() for difference in apart.values()) > 80
        used = np.argwhere((seen < 128).any(axis=(0, 3)))
        assert used[0][0] > 0.1 * middle and used[:, 1].max() < 0.9 * shape[1]


@pytest.mark.parametrize("shape", [(64, 80, 3), SMALL, (48, 48, 3), (96, 128, 3)])
def test_large_numbers_lie_at_places_of_their_own_and_every_one_can_be_read(shape):
    """Each in its quarter of the height on the right, where nothing else is; the rest never changes."""
    world = NumberLine(image_shape=shape, layout="large")
    pairs = [(p, g) for p in range(6) for g in range(6)]
    states = jax.tree.map(lambda *x: jnp.stack(x), *(state_of(p, g) for p, g in pairs))
    pictures = np.asarray(jax.jit(jax.vmap(world.render))(states)).astype(int)
    row, left = shape[0] // 4, int(0.6 * shape[1])
    rest = pictures.copy()
    for top, which in ((row, 1), (3 * row, 0)):
        cells = pictures[:, top : top + row, left:]
        rest[:, top : top + row, left:] = 255
        first = {pair[which]: cell for pair, cell in zip(pairs, cells, strict=True)}
        for pair, cell in zip(pairs, cells, strict=True):
            apart = {number: np.abs(cell - known) for number, known in first.items()}
            assert apart.pop(pair[which]).max() == 0
            assert min((difference > 80).mean() for difference in apart.values()) > 0.02
            assert np.ptp(np.argwhere(cell[:, :, 0] < 128)[:, 0]) > 0.6 * row  # the digit fills its quarter
    assert (rest == rest[0]).all() and (rest[0] < 128).any()  # the words


def test_at_64_by_80_each_large_number_is_one_visual_token_of_a_small_model():
    """16 x 16 pixels: two by two patches of eight."""
    world = NumberLine(image_shape=(64, 80, 3), layout="large")
    first, second = (np.asarray(world.render(state_of(p, g)), int) for p, g in ((2, 5), (4, 0)))
    rows, columns, _ = np.nonzero(first != second)
    assert {(int(r) // 16, int(c) // 16) for r, c in zip(rows, columns, strict=True)} == {(1, 3), (3, 3)}


def test_large_numbers_of_two_digits_are_written_in_full():
    world = NumberLine(max_position=12, image_shape=(64, 80, 3), layout="large")
    twelve, one, two = (np.asarray(world.render(state_of(p, 9)), int) for p in (12, 1, 2))
    cell = slice(48, 64), slice(48, 80)
    assert (twelve[cell][:, :12] == one[cell][:, :12]).all()
    ink = np.flatnonzero((two[cell][:, :, 0] < 128).any(axis=0))
    shifted = np.flatnonzero((twelve[cell][:, :, 0] < 128).any(axis=0))
    assert shifted[-1] > ink[-1] + 8 and shifted[-1] < 31  # a second digit behind, inside the picture


def test_two_digit_numbers_are_written_in_full():
    world = NumberLine(max_position=12, image_shape=(150, 150, 3))
    expected = written(150, (("Target: 9", 15, 30, 18), ("Current: 12", 15, 90, 18)))
    picture = np.asarray(jax.jit(world.render)(state_of(12, 9)), int)
    np.testing.assert_allclose(picture, np.asarray(expected, int), atol=1)


def test_train_and_test_share_no_pair_of_start_and_goal():
    drawn = {}
    for split in ("all", "train", "test"):
        world = envs_jax.make("cards/number_line", split=split)
        states = jax.jit(jax.vmap(world.reset))(jax.random.split(jax.random.key(3), 4000))
        drawn[split] = set(zip(states.position.tolist(), states.goal.tolist(), strict=True))
    assert not drawn["train"] & drawn["test"]
    assert drawn["train"] | drawn["test"] == drawn["all"]
    assert 0.1 < len(drawn["test"]) / len(drawn["all"]) < 0.3


def test_it_keeps_the_contract_of_a_world(world):
    report = envs_jax.check(world)
    assert report.name == "cards/number_line"
    assert report.expert_success == 1.0 and 0.3 < report.random_success < 0.9
    assert 1.8 < report.expert_steps < 2.8 < report.random_steps


@pytest.mark.parametrize(
    "options, message",
    [
        ({"max_position": 1}, "max_position is 1; accepted: an int from 2 to 99"),
        ({"max_position": 100}, "max_position is 100"),
        ({"max_position": True}, "max_position is True"),
        ({"image_shape": (60, 80, 4)}, r"image_shape is \(60, 80, 4\); accepted: \(height, width, 3\)"),
        ({"image_shape": (60, 20, 3)}, "both at least 48"),
        ({"image_shape": (0, -20, 3)}, "both at least 48"),
    ],
)
def test_an_option_out_of_range_is_named_with_what_is_accepted(options, message):
    with pytest.raises(ValueError, match=message):
        envs_jax.make("cards/number_line", **options)


@pytest.mark.parametrize(
    "options", [{"layout": "huge"}, {"max_position": 5.0}, {"image_shape": (60, 80)}, {"image_shape": [60, 80, 3]}]
)
def test_an_option_of_a_wrong_type_is_named(options):
    # The annotations, which are checked while the tests run, come before the world's own ValueError.
    with pytest.raises((ValueError, TypeCheckError), match=next(iter(options))):
        envs_jax.make("cards/number_line", **options)
