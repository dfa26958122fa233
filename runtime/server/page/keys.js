// Keys: which command a key press means, and how keys are shown.

const MAC = /Mac|iPhone|iPad/.test(navigator.platform);

const SHOWN = {
  Mod: MAC ? "⌘" : "Ctrl", Shift: "Shift", ArrowUp: "↑", ArrowDown: "↓", ArrowLeft: "←", ArrowRight: "→", Escape: "Esc",
  Enter: "Enter", Backspace: "⌫", Delete: "Del",
};

/** Return how a key such as "Mod+z" reads. */
export const showKey = (key) => (key === "+" ? "+" : key.split("+").map((part) => SHOWN[part] ?? part.toUpperCase()).join("+"));

/** Return how a key reads on a button, where there is little room. */
export const showKeyShort = (key) => showKey(key).replace("Shift+", "⇧");

/** Return the name of the key in an event, such as "Shift+q". */
export function keyOf(event) {
  const letter = event.key.length === 1;
  const key = letter ? event.key.toLowerCase() : event.key;
  const upper = event.shiftKey && (!letter || /[a-z]/.test(key)); // "?" needs Shift on many keyboards
  return [event.ctrlKey || event.metaKey ? "Mod" : "", upper ? "Shift" : "", key].filter(Boolean).join("+");
}

/** Return whether a control needs this key itself. */
function belongsTo(target, key) {
  if (target.closest("dialog[open]")) return true;
  if (target.matches("select, textarea, input:not([type=range], [type=checkbox])")) return true;
  if (target.matches("input[type=range]")) return key.startsWith("Arrow");
  if (target.matches("button, a, input, summary")) return key === "Enter" || key === " ";
  return false;
}

/**
 * Run commands by their keys, and move the image while Space is held.
 * @param {import("./commands.js").Command[]} commands
 * @param {function(boolean): void} onSpace
 */
export function listenToKeys(commands, onSpace) {
  const byKey = new Map(commands.flatMap((command) => command.keys.map((key) => [key, command])));
  document.addEventListener("keydown", (event) => {
    if (event.altKey || event.isComposing) return;
    const key = keyOf(event);
    if (belongsTo(event.target, key)) return;
    if (key === " ") {
      event.preventDefault();
      onSpace(true);
      return;
    }
    const command = byKey.get(key);
    if (!command) return;
    event.preventDefault();
    if (command.ready?.() ?? true) command.run();
  });
  document.addEventListener("keyup", (event) => { if (event.key === " ") onSpace(false); });
  window.addEventListener("blur", () => onSpace(false));
}
