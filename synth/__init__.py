"""What a scene is, who paints it and how it is kept."""

from synth import telemetry

# The lowest package: all others import it first, so that no heavy library is there before.
telemetry.switch_off()
