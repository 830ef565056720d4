// Policies: questions that run all the time, and what they say of their last finished window.

import { h } from "./dom.js";
import { amount, bounded, column, clock, percent, scaled, whole } from "./format.js";
import { badge } from "./overview.js";
import { table } from "./table.js";

const RESULTS = 12;

export const view = {
  title: "Policies",
  bare: true,

  async load(ctx) {
    const policies = await ctx.get("/api/v1/policies");
    const shown = policies.slice(0, RESULTS); // the last finished window, or the one under way where there is none
    const path = ({ name, windows }) => `/api/v1/policies/${encodeURIComponent(name)}/${windows ? "last" : "live"}`;
    const results = await Promise.all(shown.map((policy) => ctx.get(path(policy))));
    return { policies, results };
  },

  render(_, ctx, { policies, results }) {
    if (!policies.length) return [nothing()];
    return policies.map((policy, index) => card(policy, results[index]));
  },
};

function nothing() {
  return h(
    "div", { class: "card message" }, h("h2", {}, "No policy runs"),
    h("p", {}, "A policy is a question about the traffic that the agent answers by the window: rankings, distinct counts, quantiles. Add one to the section ", h("code", {}, "analyse"), " of the configuration, or post it to ", h("code", {}, "/api/v1/policies"), "."),
  );
}

function card(policy, result) {
  const unit = { bytes: "bytes", packets: "packets", records: "records" };
  const groups = (result?.groups ?? []).map((group) => {
    const named = group.group && Object.entries(group.group).map(([key, value]) => `${column(key)} ${value ?? "unknown"}`).join(", ");
    return h(
      "div", { class: "group" },
      (group.group == null || named) && h("h3", {}, group.group == null ? "Others" : named),
      h("p", {}, `${amount(group.bytes, "bytes")}, ${scaled(group.packets)} packets, ${whole(group.records)} records`),
      h("ul", { class: "facts" }, group.distinct.map(({ of, estimate, relative_error: error, is_lower_bound: low }) => h(
        "li", {}, h("span", { class: "muted" }, `Different ${of.map(column).join(" and ")}`), estimate == null ? "unknown" : `${low ? "at least " : ""}${bounded(estimate, 1.96 * error * estimate, "")}`,
      ))),
      h("div", { class: "grid" }, group.top.map((ranking) => ranked(policy.name, ranking, unit))),
    );
  });
  const when = result && `${clock(result.start_ns / 1e9)} to ${clock(result.end_ns / 1e9)}${result.is_live ? ", under way" : ""}: ${whole(result.records_seen)} records`;
  const sampled = result && result.lowest_inclusion_prob < 1;
  return h(
    "section", { class: "card" },
    h("div", { class: "cardhead" }, h("h2", {}, policy.name), sampled ? badge("warn", `overload: at least ${percent(result.lowest_inclusion_prob)} kept`) : result && badge("good", "every record")),
    h("p", { class: "muted" }, policy.filter ? h("code", {}, policy.filter) : "all records", ` · every ${policy.every} · ${amount(policy.memory_used, "bytes")} of memory`),
    h("p", { class: "muted small" }, when || "Only the first policies are shown with their numbers."), groups,
  );
}

function ranked(name, { of, by, error, rows }, unit) {
  const columns = of.map((each) => ({ key: each, label: column(each), text: (row) => (row[each] == null ? null : String(row[each])), plain: (row) => row[each] }));
  columns.push({ key: by, label: by, number: true, text: (row) => amount(row[by], unit[by]), plain: (row) => row[by] });
  const note = error > 0 ? ` (each at most ${amount(error, unit[by])} more)` : "";
  return table({ caption: `Top ${of.map(column).join(", ")} by ${by}${note}`, columns, rows, file: `${name}-${of.join("-")}` });
}
