"""The link as it is without anybody between: what the other cases build on."""

from scene import told


def direct(scene):
    """A link without anybody between carries both ways, also after its hub was killed and came back."""
    ends = scene.ends().start()
    seconds, _ = ends.wait_up()
    scene.say(f"up after {seconds:.1f} s")
    traffic = ends.traffic()
    ends.wait_flowing()
    ends.hub.kill()
    ends.hub.start()
    seconds, _ = ends.wait_up()
    flows = ends.wait_flowing()
    scene.say(f"after the hub was killed: up in {seconds:.1f} s, messages after {flows:.1f} s more")
    scene.say(told(traffic.end()))
