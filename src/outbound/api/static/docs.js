// The API's description, drawn by Swagger UI: its own files, our own host, no other.

const dark = matchMedia("(prefers-color-scheme: dark)");
const follow = () => document.documentElement.classList.toggle("dark-mode", dark.matches);
dark.addEventListener("change", follow);
follow();

window.SwaggerUIBundle({
  dom_id: "#docs",
  url: "/api/openapi.json",
  deepLinking: true,
  defaultModelsExpandDepth: 0, // the operations come first
  validatorUrl: null, // else it asks another host what it thinks of the document
  // Only the key that is typed in here counts, and not the console's session.
  requestInterceptor: (request) => Object.assign(request, { credentials: "omit" }),
});
