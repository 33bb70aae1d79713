"""The chart on a simulated fleet: fake GPU nodes (kwok) on the real control plane of the embedded cluster."""
