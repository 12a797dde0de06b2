// Filters what stands in the page already; without scripts everything is shown. `report.html#wrong` opens on the wrong answers.
const [bar, endpoint, wrong, count] = ["filter", "endpoint", "wrong", "count"].map((id) => document.getElementById(id));
const questions = [...document.querySelectorAll("#talks > details")];
// The base model is wrong most of the time: it counts where it was chosen, and not beside the tuned ones.
const counts = (talk) => !talk.hidden && (endpoint.value !== "" || talk.dataset.base === "no");
function filter() {
  for (const part of document.querySelectorAll("#talks [data-endpoint]"))
    part.hidden = endpoint.value !== "" && part.dataset.endpoint !== endpoint.value;
  for (const question of questions)
    question.hidden = wrong.checked && ![...question.querySelectorAll(".talk[data-right=no]")].some(counts);
  count.textContent = `${questions.filter((question) => !question.hidden).length} of ${questions.length} questions`;
}
wrong.checked = location.hash === "#wrong";
for (const control of [endpoint, ...document.getElementsByName("which")]) control.addEventListener("change", filter);
bar.hidden = false;
filter();
