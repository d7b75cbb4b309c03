#!/usr/bin/env python3
"""Writes birds.csv beside this file: measurements of birds of three kinds, made up, of the shape of the Palmer penguins.

    python3 birds.py

The rows with `is_new` are for holding out. Two of them come from an island that the others do not have."""
import os
import random

KINDS = {  # bill length, bill depth, flipper length, mass: mean and deviation
    "Adelie": ([(38.8, 1.7), (18.3, 1.0), (190, 5.5), (3700, 350)], ["Biscoe", "Dream", "Torgersen"]),
    "Chinstrap": ([(48.8, 1.8), (18.4, 0.9), (196, 5.5), (3730, 330)], ["Dream"]),
    "Gentoo": ([(47.5, 2.0), (15.0, 0.8), (217, 5.5), (5080, 420)], ["Biscoe"]),
}


def main():
    draw = random.Random(1707)
    rows = []
    for number in range(300):
        kind = draw.choice(list(KINDS))
        measures, islands = KINDS[kind]
        length, depth, flipper, mass = (draw.gauss(*m) for m in measures)
        is_new = number % 5 == 4
        island = "Signy" if number in (44, 199) else draw.choice(islands)
        sex = draw.choice(["female", "male"])
        rows.append([
            kind, island, f"{length:.1f}", f"{depth:.1f}", "" if draw.random() < 0.06 else round(flipper),
            "" if draw.random() < 0.04 else round(mass / 25) * 25, "" if draw.random() < 0.08 else sex,
            2007 + number % 3, str(is_new).lower(),
        ])
    with open(os.path.join(os.path.dirname(os.path.abspath(__file__)), "birds.csv"), "w") as out:
        out.write("kind,island,bill_length,bill_depth,flipper_length,mass,sex,year,is_new\n")
        for row in rows:
            out.write(",".join(map(str, row)) + "\n")


if __name__ == "__main__":
    main()
