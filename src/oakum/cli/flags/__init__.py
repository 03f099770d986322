# SPDX-License-Identifier: Apache-2.0
"""What users type after an option, parsed: pure functions from text to the backend's request types.

Nothing here touches the engine, the terminal or (but for `hosts`, which picks free ports) the machine.
"""
