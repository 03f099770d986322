# SPDX-License-Identifier: Apache-2.0
"""The CRI v1 front door: protobuf in, backend calls out."""

import os

# Before anything of this package loads gRPC, which reads them then.
# Forks go to the zygote, which never runs gRPC: its fork handlers would only slow them.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
# Bytes are read by the thread that waits for requests: threads of an "event engine" before it cost a sixth of each call.
os.environ.setdefault("GRPC_EXPERIMENTS", "-event_engine_listener")
