"""The LLaMA Board without a browser: its form filled in, its Start button pressed.

Takes JSON: a value for each element of the form that is not left as it is. The last line of stdout is, as JSON, what
the output box says at the end.
"""

import json
import sys

import gradio
from llamafactory.webui.components import create_top, create_train_tab
from llamafactory.webui.engine import Engine


engine = Engine()
with gradio.Blocks():
    engine.manager.add_elems("top", create_top())
    engine.manager.add_elems("train", create_train_tab(engine))
form = {element: getattr(element, "value", None) for element in engine.manager.get_elem_list()}
for name, value in json.loads(sys.argv[1]).items():
    form[engine.manager.get_elem_by_id(name)] = value

output_box = engine.manager.get_elem_by_id("train.output_box")
last = None
for update in engine.runner.run_train(form):
    last = update.get(output_box, last)
print(json.dumps(last))
