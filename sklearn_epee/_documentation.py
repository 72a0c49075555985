"""Where the documentation is published, and links from the diagrams of estimators to it."""

from __future__ import annotations

# The address of the site that `make docs` builds, without a slash at its end. Empty while it is not
# published: then diagrams link nowhere, and the project's URLs in pyproject.toml do not name it.
ADDRESS = ""


def page_template(address: str) -> str:
    """Return the address of the page of an estimator, with its name to be filled in."""
    return f"{address}/generated/sklearn_epee.{{name}}.html" if address else ""


class DocumentationLinkMixin:
    """Lets the diagram of an estimator link to its page, by the attributes scikit-learn asks for.

    Comes before `BaseEstimator` among the bases. Subclasses in other packages get no link.
    """

    _doc_link_module = "sklearn_epee"
    _doc_link_template = page_template(ADDRESS)

    def _doc_link_url_param_generator(self) -> dict[str, str]:
        return {"name": type(self).__name__}
