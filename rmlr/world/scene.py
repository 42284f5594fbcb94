"""What a scene of the drawn world consists of: people, things, what people do, and what of it is annotated.

Reading order: this file; places.py (where people and things are), poses.py (how people are bent to what they do),
composition.py (the scene of a seed, in that order), picture.py (its pixels), files.py (its annotations).
"""

from dataclasses import dataclass, field

from rmlr.world.geometry import STRETCH, Box

PERSON = "person"
KINDS: tuple[str, ...] = (
    "person",
    "bicycle",
    "ball",
    "kite",
    "bat",
    "bottle",
    "box",
)  # COCO's order, where COCO has them


@dataclass(frozen=True, slots=True)
class Deed:
    """What a person does, in V-COCO's terms: an action, and through which role the thing takes part."""

    action: str
    role: str


HOLD, THROW, KICK, PUSH, LOOK = (Deed(action, "obj") for action in ("hold", "throw", "kick", "push", "look"))
RIDE, SWING, HIT = Deed("ride", "instr"), Deed("hit", "instr"), Deed("hit", "obj")

HEIGHTS = (43.0, 58.0)
HEAD, ARM, LEG, HIP_HEIGHT, NECK_HEIGHT = 0.115, 0.245, 0.25, 0.46, 0.75  # in body heights; limbs: one of two segments
HAND, FOOT = 0.05, 0.055  # radii, likewise

JOINTS = (
    "nose", "neck", "left_elbow", "right_elbow", "left_hand", "right_hand", "hip",
    "left_knee", "right_knee", "left_foot", "right_foot",
)  # fmt: skip
BONES = (
    ("nose", "neck"), ("neck", "hip"), ("neck", "left_elbow"), ("left_elbow", "left_hand"), ("neck", "right_elbow"),
    ("right_elbow", "right_hand"), ("hip", "left_knee"), ("left_knee", "left_foot"), ("hip", "right_knee"),
    ("right_knee", "right_foot"),
)  # fmt: skip


@dataclass
class Thing:
    """An object that is not a person."""

    kind: str
    box: Box
    side: int = 1  # where its near side is: -1 right of it, 1 left of it (as seen from the person: the way it faces)
    rises: bool = False  # a bat: its tip is up
    drop: float = 4.0  # a bicycle: how far the low pedal is above its lower edge
    hidden: bool = False  # behind a screen or outside the picture: not annotated

    def shift(self, step: complex | float) -> None:
        """Move it."""
        x1, y1, x2, y2 = self.box
        self.box = (x1 + step.real, y1 + step.imag, x2 + step.real, y2 + step.imag)

    @property
    def centre(self) -> complex:
        return complex((self.box[0] + self.box[2]) / 2, (self.box[1] + self.box[3]) / 2)

    @property
    def near(self) -> complex:
        """Where a limb gets hold of it: the middle of its near side; a bat's handle."""
        x1, y1, x2, y2 = self.box
        x, inwards = (x1, 1) if self.side > 0 else (x2, -1)
        if self.kind == "bat":
            return complex(x + 1.5 * inwards, y2 - 1.5 if self.rises else y1 + 1.5)
        return complex(x, (y1 + y2) / 2)

    @property
    def tip(self) -> complex:
        """A bat's far end."""
        x1, y1, x2, y2 = self.box
        return complex(x2 if self.side > 0 else x1, y1 if self.rises else y2)

    # a bicycle's parts

    @property
    def wheel(self) -> float:
        return 0.235 * (self.box[2] - self.box[0])

    @property
    def saddle(self) -> complex:
        return complex(self.centre.real - self.side * 0.16 * (self.box[2] - self.box[0]), self.box[1] + 2)

    @property
    def bars(self) -> complex:
        return complex(self.centre.real + self.side * 0.25 * (self.box[2] - self.box[0]), self.box[1] + 1)

    @property
    def crank(self) -> complex:
        return complex(self.centre.real - self.side * 0.02 * (self.box[2] - self.box[0]), self.box[3] - self.wheel)

    @property
    def front_hub(self) -> complex:
        x = self.box[2] - self.wheel if self.side > 0 else self.box[0] + self.wheel
        return complex(x, self.box[3] - self.wheel)


@dataclass
class Person:
    """One of the people: where they stand, and how they are bent once `poses.pose` has bent them."""

    ground: complex  # between the feet
    height: float
    side: int  # faces right (1) or left (-1)
    lean: float
    thing: Thing | None = None  # within reach
    ball: Thing | None = None  # at the tip of the bat within reach
    behind: Thing | None = None  # within reach on the other side, but nobody minds it
    deed: Deed | None = None
    looks_at: "Thing | Person | None" = None
    gaze: float | None = None  # direction of the face; None: turned away
    joints: dict[str, complex] = field(default_factory=dict)
    stance: str | None = None  # "stand" or "walk"
    is_listed: bool = True

    @property
    def hip(self) -> complex:
        return self.ground - 1j * HIP_HEIGHT * self.height

    @property
    def neck(self) -> complex:
        return self.ground - 1j * NECK_HEIGHT * self.height + self.lean

    @property
    def head(self) -> complex:
        return self.neck + self.height * (0.03 * self.side - 0.13j)

    @property
    def core(self) -> Box:
        """Head, trunk and legs at rest: what other things keep away from."""
        x = sorted([self.ground.real, self.head.real])
        spare = 0.13 * self.height
        return (x[0] - spare, self.ground.imag - self.height, x[1] + spare, self.ground.imag + FOOT * self.height)

    @property
    def box(self) -> Box:
        """Edges around all that is drawn. The nose counts as if it stood out on all sides: no gaze in the box."""
        radii = {"hand": HAND, "foot": FOOT, "knee": 0.05, "elbow": 0.035, "hip": 0.08, "neck": 0.1, "nose": 0.0}
        circles = [(point, radii[name.split("_")[-1]]) for name, point in self.joints.items()]
        circles.append((self.head, 1.12 * HEAD))
        return (
            min(p.real - r * self.height for p, r in circles),
            min(p.imag - r * self.height for p, r in circles),
            max(p.real + r * self.height for p, r in circles),
            max(p.imag + r * self.height for p, r in circles),
        )

    @property
    def things(self) -> list[Thing]:
        """What stands around this person."""
        return [thing for thing in (self.thing, self.ball, self.behind) if thing]

    def can_reach(self, limb: str, point: complex) -> bool:
        """Whether a hand or a foot can get there."""
        root, segment = (self.neck, ARM) if limb == "hand" else (self.hip, LEG)
        return abs(point - root) <= STRETCH * segment * self.height

    def at(self, forwards: float, height: float) -> complex:
        """A point by its distance in front of the person and its height above the ground, in body heights."""
        return self.ground + self.height * complex(self.side * forwards, -height)


@dataclass(frozen=True, slots=True)
class Interaction:
    """Person `person` does `deed` to entity `entity`; None: to something that cannot be seen."""

    person: int
    deed: Deed
    entity: int | None


@dataclass(frozen=True, slots=True)
class Entity:
    """Something annotated: a person or a thing, with its box in pixels."""

    kind: str
    box: Box
    is_crowd: bool = False
    is_listed: bool = False  # a person whose actions are annotated
    stance: str | None = None  # "stand", "walk": actions without a role
    joints: tuple[tuple[float, float], ...] = ()  # of a person, as in JOINTS
    is_joint_seen: tuple[bool, ...] = ()


@dataclass(frozen=True, slots=True)
class Scene:
    """One picture's content: what is seen, and who does what. `rmlr.world.picture.paint` shows it."""

    seed: int
    index: int
    size: int
    entities: tuple[Entity, ...]  # people first
    interactions: tuple[Interaction, ...]
    stage: "Stage" = field(repr=False)


@dataclass
class Stage:
    """People and things on their places, before anybody counts or draws them."""

    people: list[Person] = field(default_factory=list)
    things: list[Thing] = field(default_factory=list)
    screens: list[Box] = field(default_factory=list)
    crowd: Box | None = None
