"""What a plan costs, as numbers and as text."""

from __future__ import annotations

from ..graph import Graph
from ..plan import Plan
from ..plan.reach import TIERS, macs_ahead, macs_by_tier
from .window import full_program, pack, window_programs

LANES = 16


def summary(plan: Plan) -> dict:
    """Figures of a window network's plan.

    Returns:
        A dict that JSON can hold: patch; weights (numbers); macs of the whole window, of the cone of its last pixel, and of
        that cone by tier; stages, each with its name, places and macs in the whole window and in the cone; programs, each with
        its name, macs ahead and in its steps, ops, and bytes of the memory it runs in for one lane.
    """
    target = plan.values[plan.output].places - 1
    cone = plan.cone([target])
    in_cone = {stage.name: stage for stage in cone.stages}
    stages = []
    for stage in plan.stages:
        mine = in_cone.get(stage.name)
        stages.append(
            {
                "name": stage.name,
                "places": len(stage.places),
                "macs": int(stage.tap_macs().sum()),
                "cone_places": len(mine.places) if mine else 0,
                "cone_macs": int(mine.tap_macs().sum()) if mine else 0,
            }
        )
    packed = pack(plan)
    programs = [
        {"name": p.name, "macs_ahead": p.macs[0], "macs_steps": sum(p.macs[1:]), "ops": len(p.ops), "bytes": 4 * p.rows}
        for p in window_programs(plan, packed)
    ]
    return {
        "patch": plan.width,
        "weights": int(packed.weights.size),
        "macs": {
            "window": plan.macs(),
            "cone": cone.macs(),
            "tiers": dict(zip(TIERS, macs_by_tier(cone, target))),
        },
        "stages": stages,
        "programs": programs,
    }


def image_summary(plans: dict[str, Plan]) -> list[dict]:
    """Figures of the networks of a whole image, by their names.

    Returns:
        For each a dict that JSON can hold: name; weights (numbers); macs of one image; stages, each with its name, places and macs;
        bytes of the memory it runs in for one lane.
    """
    result = []
    for name, plan in plans.items():
        packed = pack(plan)
        stages = [
            {"name": stage.name, "places": len(stage.places), "macs": int(stage.tap_macs().sum())}
            for stage in plan.stages
        ]
        weights, memory = int(packed.weights.size), 4 * full_program(plan, packed).rows
        result.append({"name": name, "weights": weights, "macs": plan.macs(), "stages": stages, "bytes": memory})
    return result


def whole_summary(plan: Plan, graph: Graph) -> dict:
    """Figures of a network that draws whole images by the raster schedule.

    Args:
        plan: of the network at a size, not folded.
        graph: the network.

    Returns:
        A dict that JSON can hold: height and width; weights (numbers); macs of an image, of what runs ahead of its rows, and in them;
        stages, each with its name, places and macs.
    """
    plan = plan.cone(range(plan.height * plan.width))
    stages = [{"name": s.name, "places": len(s.places), "macs": int(s.tap_macs().sum())} for s in plan.stages]
    weights = sum(source.weights.size for stage in plan.stages for source in stage.sources)
    every, ahead = plan.macs(), macs_ahead(plan, graph)
    macs = {"image": every, "ahead": ahead, "in_rows": every - ahead}
    return {"height": plan.height, "width": plan.width, "weights": weights, "macs": macs, "stages": stages}


def whole_text(figures: dict) -> str:
    """`whole_summary` for people."""
    macs, size = figures["macs"], (figures["height"], figures["width"])
    lines = [f"{'stage':28}{'places':>8}{'MAC':>14}"]
    lines += [f"{s['name']:28}{s['places']:8}{mega(s['macs']):>14}" for s in figures["stages"]]
    lines += [
        "",
        f"whole images of {size[0]}x{size[1]} pixels, {figures['weights']} weights; multiply-adds (MAC) of an image:",
        f"  every place once      {mega(macs['image']):>14}",
        f"  ahead of its rows     {mega(macs['ahead']):>14}",
        f"  in its rows           {mega(macs['in_rows']):>14}, {mega(macs['in_rows'] // (size[0] * size[1]))} a pixel",
    ]
    return "\n".join(lines)


def mega(count: int) -> str:
    """A count in millions."""
    return f"{count / 1e6:.3f} M"


def image_text(figures: list[dict]) -> str:
    """`image_summary` for people."""
    lines = [f"{'networks of a whole image':28}{'places':>8}{'MAC':>12}{'memory, 16 lanes':>26}"]
    for network in figures:
        memory = f"{LANES * network['bytes'] / 1e6:.2f} MB"
        lines.append(f"{network['name']:28}{'':8}{mega(network['macs']):>12}{memory:>26}")
        lines += [f"  {stage['name']:26}{stage['places']:8}{mega(stage['macs']):>12}" for stage in network["stages"]]
    return "\n".join(lines)


def as_text(figures: dict) -> str:
    """`summary` for people."""
    macs, m = figures["macs"], figures["patch"]
    lines = [f"{'stage':28}{'places':>8}{'MAC':>12}{'in the cone':>14}{'MAC':>12}"]
    for stage in figures["stages"]:
        lines.append(
            f"{stage['name']:28}{stage['places']:8}{mega(stage['macs']):>12}"
            f"{stage['cone_places']:14}{mega(stage['cone_macs']):>12}"
        )
    lines += [
        "",
        f"window of {m}x{m} pixels, {figures['weights']} weights; multiply-adds (MAC):",
        f"  whole window                 {mega(macs['window']):>12}",
        f"  cone of its last pixel       {mega(macs['cone']):>12}",
    ]
    lines += [f"    on {name:25} {mega(count):>12}" for name, count in macs["tiers"].items()]
    lines += ["", f"{'program (pixels of the window)':34}{'MAC ahead':>12}{'in steps':>12}{'memory, 16 lanes':>18}"]
    for p in figures["programs"]:
        memory = f"{LANES * p['bytes'] / 1e6:.2f} MB"
        lines.append(f"{p['name']:34}{mega(p['macs_ahead']):>12}{mega(p['macs_steps']):>12}{memory:>18}")
    return "\n".join(lines)
