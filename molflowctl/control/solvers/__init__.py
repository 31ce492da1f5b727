"""Inner solvers: tilt a flow by a reward."""
