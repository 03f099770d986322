# SPDX-License-Identifier: Apache-2.0
"""The OCI runtime: spec to plan, plan to container."""
