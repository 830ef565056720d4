// Policies: questions that run all the time, and what they say of their last finished window.

import { badge, card, h, message } from "./dom.js";
import { amount, bounded, column, clock, percent, scaled, whole } from "./format.js";
import { figure, table, word } from "./table.js";

const RESULTS = 12;

export const view = {
  title: "Policies",
  bare: true,

  async load(ctx) {
    const policies = await ctx.get("/api/v1/policies");
    const first = policies.slice(0, RESULTS); // the last finished window, or the one under way where there is none
    const path = ({ name, windows }) => `/api/v1/policies/${encodeURIComponent(name)}/${windows ? "last" : "live"}`;
    const results = await Promise.all(first.map((policy) => ctx.get(path(policy))));
    return { policies, results };
  },

  render(_, ctx, { policies, results }) {
    if (!policies.length) return [nothing()];
    return policies.map((policy, index) => shown(policy, results[index]));
  },
};

function nothing() {
  const what = "A policy is a question that the agent answers by the window: rankings, distinct counts, quantiles. Add one to ";
  return message(
    "No policy runs",
    h("p", {}, what, h("code", {}, "analyse"), " in the configuration, or post it to ", h("code", {}, "/api/v1/policies"), "."),
  );
}

function shown(policy, result) {
  const groups = (result?.groups ?? []).map((group) => {
    const named = group.group && Object.entries(group.group).map(
      ([key, value]) => `${column(key)} ${value ?? "unknown"}`
    ).join(", ");
    return h(
      "div", { class: "group" },
      (group.group == null || named) && h("h3", {}, group.group == null ? "Others" : named),
      h("p", {}, `${amount(group.bytes, "bytes")}, ${scaled(group.packets)} packets, ${whole(group.records)} records`),
      h("ul", { class: "facts" }, group.distinct.map(({ of, estimate, relative_error: error, is_lower_bound: low }) => h(
        "li", {}, h(
          "span", { class: "muted" }, `Different ${of.map(column).join(" and ")}`,
        ), estimate == null ? "unknown" : `${low ? "at least " : ""}${bounded(estimate, 1.96 * error * estimate, "")}`,
      ))),
      h("div", { class: "grid" }, group.top.map((ranking) => ranked(policy.name, ranking))),
    );
  });
  const [start, end] = result ? [result.start_ns, result.end_ns].map((ns) => clock(ns / 1e9)) : [];
  const when = result && `${start} to ${end}${result.is_live ? ", under way" : ""}: ${whole(result.records_seen)} records`;
  const sampled = result && result.lowest_inclusion_prob < 1;
  const overload = sampled && `overload: at least ${percent(result.lowest_inclusion_prob)} kept`;
  return card(
    policy.name, overload ? badge("warn", overload) : result && badge("good", "every record"),
    h(
      "p", { class: "muted" }, policy.filter ? h("code", {}, policy.filter) : "all records",
      ` · every ${policy.every} · ${amount(policy.memory_used, "bytes")} of memory`,
    ),
    h("p", { class: "muted small" }, when || "Only the first policies are shown with their numbers."), groups,
  );
}

function ranked(name, { of, by, error, rows }) {
  const columns = of.map((each) => word(each, column(each), (row) => row[each]));
  columns.push(figure(by, by, (row) => row[by], (row) => amount(row[by], by)));
  const note = error > 0 ? ` (each at most ${amount(error, by)} more)` : "";
  return table({ caption: `Top ${of.map(column).join(", ")} by ${by}${note}`, columns, rows, file: `${name}-${of.join("-")}` });
}
