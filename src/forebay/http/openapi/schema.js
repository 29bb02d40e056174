// JSON Schemas as people read them: names of types, constraints, trees, and examples.

let spec = {};

const nameOf = (reference) => decodeURIComponent(String(reference).split("/").pop()).replace(/~1/g, "/").replace(/~0/g, "~");

// What a reference within the document stands for.
function target(reference) {
  let found = spec;
  for (const part of String(reference).replace(/^#\//, "").split("/")) {
    found = found?.[decodeURIComponent(part).replace(/~1/g, "/").replace(/~0/g, "~")];
  }
  return found ?? {};
}

// A schema without references and allOf at its top.
function flat(schema, depth = 0) {
  if (schema === true || schema === undefined || schema === null) return {};
  if (schema === false) return { not: {} };
  let made = schema;
  if (made.$ref && depth < 20) {
    const { $ref, ...beside } = made;
    made = { ...flat(target($ref), depth + 1), ...beside };
  }
  if (Array.isArray(made.allOf) && depth < 20) {
    const { allOf, ...rest } = made;
    made = { ...rest };
    for (const part of allOf.map((one) => flat(one, depth + 1))) {
      made = { ...part, ...made, properties: { ...part.properties, ...made.properties },
        required: [...(part.required || []), ...(made.required || [])] };
    }
    if (!Object.keys(made.properties).length) delete made.properties;
    if (!made.required.length) delete made.required;
  }
  return made;
}

const isNull = (schema) => schema && (schema.type === "null" || schema.const === null);
const variants = (schema) => (schema.anyOf || schema.oneOf || []).filter((one) => !isNull(one));
const mayBeNull = (schema) => (schema.anyOf || schema.oneOf || []).some(isNull) || (Array.isArray(schema.type) && schema.type.includes("null"));
const kindOf = (value) => (value === null ? "null" : Array.isArray(value) ? "array" : Number.isInteger(value) ? "integer" : typeof value);

// The type of what is not null.
function mainType(schema) {
  if (Array.isArray(schema.type)) return schema.type.find((one) => one !== "null");
  if (schema.type) return schema.type;
  if (schema.properties || schema.additionalProperties) return "object";
  if (schema.items || schema.prefixItems) return "array";
  const values = schema.enum || ("const" in schema ? [schema.const] : []);
  const kinds = [...new Set(values.map(kindOf))];
  return kinds.length === 1 ? kinds[0] : undefined;
}

function typeName(schema, depth = 0) {
  const found = flat(schema);
  if (depth > 5) return "…";
  const list = variants(found);
  let name;
  if (list.length) name = [...new Set(list.map((one) => typeName(one, depth + 1)))].join(" or ");
  else {
    const main = mainType(found);
    if (main === "array") name = found.prefixItems ? `[${found.prefixItems.map((one) => typeName(one, depth + 1)).join(", ")}]`
      : found.items ? `array of ${typeName(found.items, depth + 1)}` : "array";
    else if (main === "object" && (schema.$ref || found.title)) name = schema.$ref ? nameOf(schema.$ref) : found.title;
    else if (main === "object" && found.additionalProperties && found.additionalProperties !== true && !found.properties)
      name = `map of ${typeName(found.additionalProperties, depth + 1)}`;
    else name = main || "any";
    if (found.format === "binary") name = "file";
    else if (found.format) name += ` <${found.format}>`;
    else if (found.contentEncoding) name += ` <${found.contentEncoding}>`;
  }
  return mayBeNull(found) ? `${name} or null` : name;
}

const written = (value) => (typeof value === "string" ? value : JSON.stringify(value));

// What a value must be besides its type.
function constraints(schema) {
  let found = flat(schema);
  const only = variants(found);
  if (only.length === 1) found = { ...flat(only[0]), ...found };
  const said = [];
  const inside = Math.abs(found.minimum) < 2 ** 63 || Math.abs(found.maximum) < 2 ** 63;
  if (found.minimum !== undefined && Math.abs(found.minimum) < 2 ** 63) said.push(`≥ ${found.minimum}`);
  if (found.exclusiveMinimum !== undefined) said.push(`> ${found.exclusiveMinimum}`);
  if (found.maximum !== undefined && Math.abs(found.maximum) < 2 ** 63) said.push(`≤ ${found.maximum}`);
  if (found.exclusiveMaximum !== undefined) said.push(`< ${found.exclusiveMaximum}`);
  if (found.multipleOf !== undefined) said.push(`multiple of ${found.multipleOf}`);
  const range = (least, most, what) => {
    if (least !== undefined && most !== undefined) said.push(least === most ? `${least} ${what}` : `${least} to ${most} ${what}`);
    else if (least !== undefined) said.push(`at least ${least} ${what}`);
    else if (most !== undefined) said.push(`at most ${most} ${what}`);
  };
  range(found.minLength, found.maxLength, "characters");
  range(found.minItems, found.maxItems, "items");
  range(found.minProperties, found.maxProperties, "members");
  if (found.uniqueItems) said.push("no item twice");
  if (found.additionalProperties === false) said.push("no other members");
  if (found.readOnly) said.push("only in answers");
  if (found.writeOnly) said.push("only in requests");
  const chips = said.map((text) => h("span", { class: "chip" }, text));
  if (found.pattern !== undefined) chips.push(h("span", { class: "chip" }, "pattern ", h("code", {}, found.pattern)));
  if (found.const !== undefined) chips.push(h("span", { class: "chip" }, "always ", h("code", {}, written(found.const))));
  const values = found.enum || (found.items ? flat(found.items).enum : undefined);
  if (values) chips.push(h("span", { class: "values" }, "one of ", values.slice(0, 40).map((value) => [h("code", {}, written(value)), " "]),
    values.length > 40 ? `and ${values.length - 40} more` : null));
  const empty = found.default !== null && typeof found.default === "object" && !Object.keys(found.default).length;
  if (found.default !== undefined && found.default !== null && !empty)
    chips.push(h("span", { class: "chip" }, "default ", h("code", {}, written(found.default))));
  return inside || chips.length ? chips : [];
}

function exampleLine(schema) {
  const found = flat(schema).examples;
  if (!Array.isArray(found) || !found.length) return null;
  return h("p", { class: "example" }, found.length > 1 ? "Examples: " : "Example: ",
    found.slice(0, 5).map((one, index) => [index ? ", " : "", h("code", {}, written(one))]));
}

// The members of a schema as a tree; null where it has none. What is deep is made when it is opened.
function tree(schema, depth = 0) {
  const found = flat(schema);
  const rows = [];
  for (const [name, part] of Object.entries(found.properties || {})) {
    rows.push(row(h("code", { class: "name" }, name), part, depth, (found.required || []).includes(name)));
  }
  if (found.additionalProperties && typeof found.additionalProperties === "object")
    rows.push(row(h("span", { class: "name any" }, "any name"), found.additionalProperties, depth));
  const options = variants(found);
  if (options.length === 1) {
    const inner = tree(options[0], depth);
    if (inner) return inner;
  } else if (options.some((one) => tree.has(one))) {
    options.forEach((one, index) => rows.push(row(h("span", { class: "name any" }, `option ${index + 1}`), one, depth)));
  }
  if (mainType(found) === "array") {
    for (const [index, part] of (found.prefixItems || []).entries())
      rows.push(row(h("span", { class: "name any" }, `item ${index + 1}`), part, depth));
    if (found.items && typeof found.items === "object" && tree.has(found.items)) {
      if (!rows.length) return tree(found.items, depth);
      rows.push(row(h("span", { class: "name any" }, "further items"), found.items, depth));
    }
  }
  return rows.length ? h("ul", { class: "tree" }, rows) : null;
}

tree.has = (schema, depth = 0) => {
  const found = flat(schema);
  if (depth > 5) return true;
  return Boolean(
    Object.keys(found.properties || {}).length ||
    (found.additionalProperties && typeof found.additionalProperties === "object") ||
    found.prefixItems ||
    (found.items && tree.has(found.items, depth + 1)) ||
    variants(found).some((one) => tree.has(one, depth + 1)),
  );
};

function row(name, schema, depth, required) {
  const found = flat(schema);
  const line = h("div", { class: "line" }, name, h("span", { class: "type" }, typeName(schema)),
    required ? h("span", { class: "required" }, "required") : null,
    found.deprecated ? h("span", { class: "deprecated" }, "deprecated") : null, constraints(schema));
  const words = schema.description || (schema.$ref ? "" : found.description);
  const more = [words ? h("div", { class: "words" }, prose(words)) : null, exampleLine(schema)];
  return h("li", {}, line, more, tree.has(schema) ? folded(() => tree(schema, depth + 1), depth < 1, "members") : null);
}

// Something that is made when it is first opened.
function folded(make, open, label) {
  const box = h("details", { class: "fold" }, h("summary", {}, label));
  const fill = () => {
    if (box.open && box.children.length === 1) box.append(make() || h("p", { class: "faint" }, "nothing"));
  };
  box.addEventListener("toggle", fill);
  if (open) {
    box.open = true;
    fill();
  }
  return box;
}

// A schema as a whole: its type, what it must be, and its members.
function schemaView(schema) {
  const found = flat(schema);
  const words = found.description;
  return h("div", { class: "schema" },
    h("div", { class: "line" }, h("span", { class: "type" }, typeName(schema)), constraints(schema)),
    words ? h("div", { class: "words" }, prose(words)) : null, tree(schema));
}

// A value that fits, as far as one can tell.
function example(schema, depth = 0, above = []) {
  if (schema?.$ref) {
    if (above.includes(schema.$ref)) return null;
    above = [...above, schema.$ref];
  }
  const found = flat(schema);
  if (Array.isArray(found.examples) && found.examples.length) return found.examples[0];
  if (found.example !== undefined) return found.example;
  if (found.const !== undefined) return found.const;
  if (found.default !== undefined && found.default !== null) return found.default;
  if (found.enum) return found.enum[0];
  const options = variants(found);
  if (options.length) {
    const fresh = options.find((one) => !above.includes(one.$ref));
    return fresh ? example(fresh, depth, above) : null;
  }
  const main = mainType(found);
  if (main === "object") return exampleObject(found, depth, above);
  if (main === "array") {
    if (found.prefixItems) return found.prefixItems.map((one) => example(one, depth + 1, above));
    if (!found.items || depth > 5 || above.includes(found.items.$ref)) return [];
    return Array.from({ length: Math.min(found.minItems ?? 1, 10) }, () => example(found.items, depth + 1, above));
  }
  if (main === "integer" || main === "number") return exampleNumber(found, main === "integer");
  if (main === "boolean") return true;
  if (main === "null") return null;
  return main === "string" ? exampleText(found) : depth ? "any" : {};
}

function exampleObject(found, depth, above) {
  const made = {};
  for (const [name, part] of Object.entries(found.properties || {})) {
    const required = (found.required || []).includes(name);
    const circular = [part, ...variants(part), part.items || {}].some((one) => above.includes(one.$ref));
    if (required || (depth < 5 && !circular)) made[name] = example(part, depth + 1, above);
  }
  if (found.additionalProperties && typeof found.additionalProperties === "object" && depth < 4 && !found.properties)
    made.name = example(found.additionalProperties, depth + 1, above);
  return made;
}

function exampleNumber(found, whole) {
  const step = found.multipleOf || (whole ? 1 : 0.5);
  const outside = (bound) => bound === undefined || Math.abs(bound) >= 2 ** 63;
  if (!outside(found.minimum)) return found.minimum > 0 || outside(found.maximum) ? found.minimum : Math.min(0, found.maximum);
  if (found.exclusiveMinimum !== undefined) return found.exclusiveMinimum + step;
  if (!outside(found.maximum)) return Math.min(found.maximum, 0);
  if (found.exclusiveMaximum !== undefined) return Math.min(found.exclusiveMaximum - step, 0);
  return found.multipleOf || 1;
}

const TEXTS = {
  "date-time": "2026-01-31T12:00:00Z", date: "2026-01-31", time: "12:00:00Z", duration: "PT1H", uri: "https://example.com/",
  uuid: "3f2504e0-4f89-41d3-9a0c-0305e82c3301", email: "name@example.com", decimal: "1.5", ipv4: "192.0.2.1", ipv6: "2001:db8::1",
};

function exampleText(found) {
  let text = TEXTS[found.format] ?? (found.contentEncoding === "base64" ? "dGV4dA==" : "text");
  if (found.minLength > text.length) text = text.padEnd(Math.min(found.minLength, 200), "x");
  if (found.maxLength < text.length) text = text.slice(0, found.maxLength);
  return text;
}
