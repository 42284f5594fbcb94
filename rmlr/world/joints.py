"""Where the joints of the drawn people are: CrowdPose's 14, as its annotators would click them.

People are drawn in profile, so both shoulders are one point, and so are both hips. Which limb is the left one follows
from the way they face: the near one is the right one of who faces right.
"""

from rmlr.world.geometry import FIELD
from rmlr.world.scene import HEAD, Person, Scene

CROWDPOSE = (
    "left_shoulder", "right_shoulder", "left_elbow", "right_elbow", "left_wrist", "right_wrist", "left_hip",
    "right_hip", "left_knee", "right_knee", "left_ankle", "right_ankle", "top_head", "neck",
)  # fmt: skip
CROWDPOSE_BONES = (
    ("left_shoulder", "left_elbow"), ("left_elbow", "left_wrist"), ("right_shoulder", "right_elbow"),
    ("right_elbow", "right_wrist"), ("left_hip", "left_knee"), ("left_knee", "left_ankle"), ("right_hip", "right_knee"),
    ("right_knee", "right_ankle"), ("top_head", "neck"), ("neck", "left_shoulder"), ("neck", "right_shoulder"),
    ("left_shoulder", "left_hip"), ("right_shoulder", "right_hip"),
)  # fmt: skip
OURS = {"wrist": "hand", "ankle": "foot"}  # what the world calls them
OUTSIDE, HIDDEN, SEEN = 0, 1, 2  # COCO's flags

Joint = tuple[float, float, int]  # x and y in pixels, and the flag; 0, 0 where it is outside the picture


def crowdpose_joints(scene: Scene) -> list[list[Joint]]:
    """The joints of every person of a scene but its crowd, in the order of its entities; each as in `CROWDPOSE`.

    Hidden is what lies behind a screen, behind head or trunk of somebody nearer, or, of a far limb, behind one's own
    trunk.
    """
    scale, size, people = scene.size / FIELD, scene.size, scene.stage.people
    found = []
    for person in people:
        nearer = [other for other in people if other.ground.imag > person.ground.imag]  # as `paint` orders them
        joints: list[Joint] = []
        for name in CROWDPOSE:
            point = _place(person, name)
            x, y = round(point.real * scale, 2), round(point.imag * scale, 2)
            is_far = name.startswith("left" if person.side > 0 else "right")
            covers = [any(_is_behind(point, other) for other in nearer), is_far and _is_behind_trunk(point, person)]
            covers += [x1 <= point.real <= x2 and y1 <= point.imag <= y2 for x1, y1, x2, y2 in scene.stage.screens]
            is_inside = 0 <= x < size and 0 <= y < size
            joints.append((x, y, HIDDEN if any(covers) else SEEN) if is_inside else (0.0, 0.0, OUTSIDE))
        found.append(joints)
    return found


def _place(person: Person, name: str) -> complex:
    """A joint of CrowdPose, in the world's units."""
    side, _, part = name.rpartition("_")
    if part == "neck":
        return person.neck
    if part == "head":
        return person.head - 1j * HEAD * person.height
    if part == "shoulder":
        return person.neck + 0.02j * person.height  # where `paint` begins an arm
    if part == "hip":
        return person.hip
    return person.joints[f"{side}_{OURS.get(part, part)}"]


def _is_behind(point: complex, other: Person) -> bool:
    return abs(point - other.head) < HEAD * other.height or _is_behind_trunk(point, other)


def _is_behind_trunk(point: complex, person: Person) -> bool:
    """Whether the trunk that `paint` draws lies over it."""
    top, bottom = person.neck + 0.02j * person.height, person.hip
    down = (point.imag - top.imag) / (bottom.imag - top.imag)
    half = (0.085 + (0.07 - 0.085) * down) * person.height
    return 0 <= down <= 1 and abs(point.real - (top + (bottom - top) * down).real) < half
