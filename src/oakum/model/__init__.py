# SPDX-License-Identifier: Apache-2.0
"""Value types that more than one package shares; standard library only, no input or output."""
