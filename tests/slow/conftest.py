import pytest

from rlrazor.runtime.mesh import make_mesh


@pytest.fixture(scope="module")
def mesh():
    """A TPU v5e of eight chips, told about and not there."""
    from jax.experimental import topologies

    with pytest.MonkeyPatch.context() as patch:
        # What libtpu would otherwise ask of the cloud machine's metadata server.
        patch.setenv("TPU_SKIP_MDS_QUERY", "1")
        patch.setenv("TPU_ACCELERATOR_TYPE", "v5litepod-8")
        patch.setenv("TPU_WORKER_ID", "0")
        patch.setenv("TPU_WORKER_HOSTNAMES", "localhost")
        topology = topologies.get_topology_desc(platform="tpu", topology_name="v5e:2x4")
        yield make_mesh(data=0, devices=topology.devices)
