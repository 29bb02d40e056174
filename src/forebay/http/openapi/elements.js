// Elements made of plain values. Text is only ever put in as text: there is no markup in what a document says.

function h(name, attributes, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes || {})) {
    if (value === null || value === undefined || value === false) continue;
    if (typeof value === "function") element.addEventListener(key, value);
    else element.setAttribute(key, value === true ? "" : String(value));
  }
  element.append(...children.flat(9).filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

let lastId = 0;
const freshId = (prefix) => `${prefix}-${++lastId}`;

// Text with `code`, **strong** and [links](https://...), in one line.
function inline(text) {
  const parts = [];
  let at = 0;
  for (const found of String(text).matchAll(/(`+)(.+?)\1|\*\*([^*]+)\*\*|\[([^\]]+)\]\((https?:\/\/[^\s)]+)\)/g)) {
    parts.push(text.slice(at, found.index));
    if (found[2] !== undefined) parts.push(h("code", {}, found[2].trim()));
    else if (found[3] !== undefined) parts.push(h("strong", {}, found[3]));
    else parts.push(h("a", { href: found[5], rel: "noreferrer noopener" }, found[4]));
    at = found.index + found[0].length;
  }
  parts.push(String(text).slice(at));
  return parts.filter((part) => part !== "");
}

// Paragraphs, lists and code blocks: what descriptions are made of.
function prose(text) {
  const blocks = [];
  for (const block of String(text || "").trim().split(/\n[ \t]*\n/)) {
    const lines = block.split("\n");
    if (!block.trim()) continue;
    if (lines.every((line) => /^( {4}|\t)/.test(line)) || /^\s*```/.test(block)) {
      blocks.push(h("pre", { class: "code" }, block.replace(/^\s*```.*\n?|\n?```\s*$/g, "").replace(/^ {4}/gm, "")));
    } else if (/^\s*[-*] /.test(lines[0])) {
      const items = [];
      for (const line of lines) {
        if (/^\s*[-*] /.test(line)) items.push(line.replace(/^\s*[-*] /, ""));
        else items[items.length - 1] += " " + line.trim();
      }
      blocks.push(h("ul", {}, items.map((item) => h("li", {}, inline(item)))));
    } else if (/^#{1,6} /.test(lines[0])) {
      blocks.push(h("p", { class: "heading" }, inline(lines[0].replace(/^#+ /, ""))), ...prose(lines.slice(1).join("\n")));
    } else blocks.push(h("p", {}, inline(lines.map((line) => line.trim()).join(" "))));
  }
  return blocks;
}

function method(name) {
  const known = ["get", "post", "put", "patch", "delete", "ws"].includes(name.toLowerCase());
  return h("span", { class: `method ${known ? name.toLowerCase() : "other"}` }, name.toUpperCase());
}

// A path with its parameters marked, which may be broken behind slashes.
function pathText(path) {
  const parts = [];
  for (const part of path.split(/(\{[^}]*\}|\/)/)) {
    if (part === "/") parts.push("/", h("wbr"));
    else if (part.startsWith("{")) parts.push(h("span", { class: "hole" }, part));
    else if (part) parts.push(part);
  }
  return h("code", { class: "path" }, parts);
}

function copyButton(what, text) {
  const button = h("button", { type: "button", class: "small", click: copy }, "Copy");
  button.setAttribute("aria-label", `Copy ${what}`);
  async function copy() {
    try {
      await navigator.clipboard.writeText(text());
      button.textContent = "Copied";
    } catch {
      button.textContent = "Not allowed here";
    }
    setTimeout(() => (button.textContent = "Copy"), 1500);
  }
  return button;
}

// JSON, indented again without changing a number in it: JSON.parse would round large ones.
function indented(text) {
  const tokens = text.match(/"(?:\\[^]|[^"\\])*"|[[\]{},:]|[^\s[\]{},:"]+/g) || [];
  let made = "", depth = 0;
  const line = () => "\n" + "  ".repeat(Math.min(depth, 40));
  tokens.forEach((token, index) => {
    const opens = token === "{" || token === "[", closes = token === "}" || token === "]";
    const empty = (opens && /^[\]}]$/.test(tokens[index + 1] || "")) || (closes && /^[[{]$/.test(tokens[index - 1] || ""));
    if (closes && !empty) depth--;
    made += closes && !empty ? line() + token : token;
    if (opens && !empty) depth++;
    if ((opens && !empty) || token === ",") made += line();
    else if (token === ":") made += " ";
  });
  return made;
}

// The same with colours, as nodes.
function coloured(text) {
  const nodes = [];
  let at = 0;
  for (const found of text.matchAll(/("(?:\\.|[^"\\])*")(\s*:)?|\b(?:true|false|null)\b|-?\b\d[\d.eE+-]*/g)) {
    nodes.push(text.slice(at, found.index));
    const kind = found[2] !== undefined ? "key" : found[1] !== undefined ? "string" : /[tfn]/.test(found[0][0]) ? "word" : "number";
    nodes.push(h("span", { class: `json-${kind}` }, found[1] ?? found[0]), found[2] ?? "");
    at = found.index + found[0].length;
  }
  nodes.push(text.slice(at));
  return nodes;
}

function jsonBlock(text) {
  return h("pre", { class: "code", tabindex: 0 }, text.length < 100000 ? coloured(text) : text);
}
