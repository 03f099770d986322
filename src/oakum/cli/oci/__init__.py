# SPDX-License-Identifier: Apache-2.0
"""`oakum oci`: the command line that dockerd, containerd and CRI-O call runtimes with. Imports neither click nor the engine."""
