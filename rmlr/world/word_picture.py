"""How the world of near-synonyms looks: things in twenty colours and shapes, and a mark at the limb that acts."""

from collections.abc import Callable

from PIL import Image

from rmlr.world.chance import Dice, Stream
from rmlr.world.lexicon import SHAPE_OF
from rmlr.world.picture import Brush, Colour, dress, paint_person
from rmlr.world.scene import FOOT, HAND, Scene, Thing
from rmlr.world.word_scene import Actor

# Fill, and lines or inner parts, of each thing.
COLOURS: dict[str, tuple[Colour, Colour]] = {
    "apple": ((206, 30, 36), (90, 12, 14)),
    "orange": ((246, 140, 20), (150, 70, 0)),
    "peach": ((250, 190, 160), (220, 100, 90)),
    "plum": ((110, 30, 120), (52, 10, 60)),
    "box": ((202, 160, 84), (240, 224, 170)),
    "crate": ((120, 74, 30), (190, 134, 70)),
    "chest": ((130, 20, 30), (236, 200, 70)),
    "suitcase": ((28, 100, 170), (16, 40, 80)),
    "bottle": ((30, 140, 60), (226, 240, 220)),
    "jar": ((130, 210, 220), (200, 60, 60)),
    "jug": ((236, 226, 200), (60, 80, 170)),
    "vase": ((190, 60, 150), (250, 210, 235)),
    "hammer": ((90, 94, 104), (150, 100, 50)),
    "shovel": ((40, 110, 110), (196, 160, 90)),
    "rake": ((60, 150, 50), (130, 84, 40)),
    "axe": ((210, 216, 226), (170, 40, 30)),
    "hat": ((40, 36, 40), (150, 150, 156)),
    "cap": ((230, 60, 60), (250, 240, 240)),
    "helmet": ((240, 200, 20), (150, 110, 0)),
    "bonnet": ((170, 150, 230), (250, 250, 255)),
}
MARKS: tuple[Colour, ...] = ((30, 90, 250), (20, 170, 60), (250, 30, 30))  # of the light, the middle, the strong verb
MARK = 6.0  # width; thinner ones are lost in a map of stride 16 (docs/words.md)


def paint_words(scene: Scene) -> Image.Image:
    """The picture of a scene, RGB, `size` x `size`, with the ground and the noise of the other world."""
    stage, size, dice = scene.stage, scene.size, Dice(scene.seed, scene.index, Stream.PICTURE)
    brush = Brush.on_blotches(size, dice)
    for thing in stage.things:
        SHAPES[SHAPE_OF[thing.kind]](brush, thing, *COLOURS[thing.kind])
    for person in sorted(stage.people, key=lambda someone: someone.ground.imag):
        looks = dress(dice)
        paint_person(brush, person, looks)
        if isinstance(person, Actor):
            _paint_mark(brush, person, looks["skin"] if person.pose.acts == "hand" else looks["shoes"])
    return brush.noisy(size, dice)


def _paint_mark(brush: Brush, actor: Actor, colour: Colour) -> None:
    """What tells the verbs of a cluster apart: the colour of the acting forearm or lower leg, and its end once more."""
    assert actor.task is not None
    side, limb = "right" if actor.side > 0 else "left", actor.pose.acts
    end, joint = (actor.joints[f"{side}_{name}"] for name in (limb, "elbow" if limb == "hand" else "knee"))
    brush.line([joint, end], MARKS[actor.task.degree], MARK)
    brush.disc(end, min((HAND if limb == "hand" else FOOT) * actor.height, 2.8), colour)


# ---- things: of one shape, told apart by colours and inner marks


def _paint_fruit(brush: Brush, thing: Thing, fill: Colour, ink: Colour) -> None:
    middle, radius = thing.centre, (thing.box[2] - thing.box[0]) / 2 - 0.3
    brush.disc(middle, radius, fill, outline=ink)
    if thing.kind in ("peach", "plum"):
        brush.line([middle - 0.8j * radius, middle + 0.8j * radius], ink, 0.8)
    else:
        brush.disc(middle - 0.6j * radius, 1.0, ink)


def _paint_container(brush: Brush, thing: Thing, fill: Colour, ink: Colour) -> None:
    x1, y1, x2, y2 = thing.box
    width, height = x2 - x1, y2 - y1
    brush.rectangle(thing.box, fill, outline=(30, 24, 20))
    if thing.kind == "box":
        brush.rectangle((x1 + width * 0.42, y1, x1 + width * 0.58, y2), ink)
    elif thing.kind == "crate":
        for share in (0.2, 0.5, 0.8):
            brush.rectangle((x1, y1 + height * (share - 0.06), x2, y1 + height * (share + 0.06)), ink)
    elif thing.kind == "chest":
        brush.rectangle((x1, y1 + height * 0.3, x2, y1 + height * 0.42), ink)
        brush.disc(thing.centre, 1.4, ink)
    else:
        brush.rectangle((x1 + width * 0.15, y1, x1 + width * 0.25, y2), ink)
        brush.rectangle((x1 + width * 0.75, y1, x1 + width * 0.85, y2), ink)


def _paint_vessel(brush: Brush, thing: Thing, fill: Colour, ink: Colour) -> None:
    x1, y1, x2, y2 = thing.box
    width, height, middle = x2 - x1, y2 - y1, thing.centre.real
    neck = width * {"bottle": 0.2, "jar": 0.42, "jug": 0.3, "vase": 0.26}[thing.kind]
    brush.rectangle((middle - neck, y1, middle + neck, y1 + height * 0.4), fill)
    brush.rectangle((x1, y1 + height * 0.3, x2, y2), fill, outline=(30, 24, 20))
    if thing.kind == "jar":
        brush.rectangle((middle - neck, y1, middle + neck, y1 + height * 0.2), ink)
    elif thing.kind == "jug":
        brush.ring(complex(middle, y1 + height * 0.62), width * 0.25, ink, 1.2)
    elif thing.kind == "vase":
        brush.line([complex(x1 + 1, y2 - 2), complex(x2 - 1, y1 + height * 0.4)], ink, 1.4)
    else:
        brush.rectangle((x1, y1 + height * 0.52, x2, y1 + height * 0.76), ink)


def _paint_tool(brush: Brush, thing: Thing, fill: Colour, ink: Colour) -> None:
    """A handle from the near side, and a head at the far one."""
    x1, y1, x2, y2 = thing.box
    middle, inwards = thing.centre.imag, thing.side
    start, end = (x1, x2) if inwards > 0 else (x2, x1)
    brush.line([complex(start + inwards, middle), complex(end - 2 * inwards, middle)], ink, 2.0)

    def head(depth: float, top: float, bottom: float) -> None:
        back = end - depth * inwards
        brush.rectangle((min(back, end), top, max(back, end), bottom), fill, outline=(30, 30, 34))

    if thing.kind == "hammer":
        head(5.0, y1, y2)
    elif thing.kind == "shovel":
        head(7.5, y1 + 1, y2 - 1)
    elif thing.kind == "axe":
        head(4.5, y1, middle + 1.5)
    else:
        for share in (0.0, 0.4, 0.8):
            y = y1 + share * (y2 - y1)
            head(6.0, y, y + 1.8)
        head(1.8, y1, y2)


def _paint_hat(brush: Brush, thing: Thing, fill: Colour, ink: Colour) -> None:
    """A dome on a brim."""
    x1, y1, x2, y2 = thing.box
    width, height, middle = x2 - x1, y2 - y1, thing.centre.real
    brush.wedge(complex(middle, y2 - height * 0.2), min(width * 0.4, height * 0.8), 180, 360, fill)
    brush.rectangle((x1, y2 - height * 0.26, x2, y2), fill, outline=(30, 24, 20))
    if thing.kind == "hat":
        brush.rectangle((middle - width * 0.3, y2 - height * 0.45, middle + width * 0.3, y2 - height * 0.26), ink)
    elif thing.kind == "cap":
        brush.rectangle((x1, y2 - height * 0.26, middle, y2), ink)
    elif thing.kind == "helmet":
        brush.line([complex(middle, y1 + 1), complex(middle, y2 - 1)], ink, 1.6)
    else:
        for share in (0.2, 0.5, 0.8):
            brush.disc(complex(x1 + share * width, y2 - height * 0.13), 1.1, ink)


SHAPES: tuple[Callable[[Brush, Thing, Colour, Colour], None], ...] = (
    _paint_fruit,
    _paint_container,
    _paint_vessel,
    _paint_tool,
    _paint_hat,
)  # by shape, as in the lexicon
