"""Reads what TensorBoard is given."""

import glob
import struct


def read_scalars(folder):
    """The scalars of a TensorBoard folder, by the two formats it is made of: TFRecord, protobuf."""
    from tensorboardX.proto import event_pb2

    scalars = []
    for path in sorted(glob.glob(f"{folder}/events.out.tfevents.*")):
        with open(path, "rb") as file:
            while header := file.read(8):
                (length,) = struct.unpack("<Q", header)
                file.read(4)
                event = event_pb2.Event.FromString(file.read(length))
                file.read(4)
                scalars += [(v.tag, event.step, v.simple_value) for v in event.summary.value]
    return scalars
