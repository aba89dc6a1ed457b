"""An OpenAI-compatible HTTP server over the step loop: `lab serve`."""
