// A script of its own: the content security policy lets none stand in the page.
const place = document.getElementById("contract");
SwaggerUIBundle({
  url: place.dataset.url,
  domNode: place,
  deepLinking: true,
  docExpansion: "list",
  defaultModelsExpandDepth: 0,
  persistAuthorization: false,
  // Nothing is asked of anybody outside, not even whether the contract is valid.
  validatorUrl: null,
  requestSnippetsEnabled: true,
});
