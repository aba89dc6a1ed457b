"""Guardrails: a policy's rules over what comes into a model, what leaves it, and what it wants to do.

    chain = safety.Chain(safety.load("default"), sink=log)
    asked = chain.input(text)                  # asked.text goes on to the model, asked.instructions as its system message
    for piece in chain.stream(chunks): ...     # what may be shown, as it comes
    chain.tool(safety.ToolCall(name="calculator", arguments={"expression": "2 + 2"}), ask=show)

A guard that crashes, answers late or cannot write its log blocks, and the decision says so.
"""

from lab.safety.chain import Chain, Ruling, Stream
from lab.safety.confirmation import Pending
from lab.safety.decisions import Action, Checked, Decision, Finding, Guard, Record, Scan, Stage, ToolCall
from lab.safety.flow import Flow
from lab.safety.policy import Policy, Rule, Tool, load, names, parse

__all__ = ["Action", "Chain", "Checked", "Decision", "Finding", "Flow", "Guard", "Pending", "Policy", "Record", "Rule",
           "Ruling", "Scan", "Stage", "Stream", "Tool", "ToolCall", "load", "names", "parse"]
