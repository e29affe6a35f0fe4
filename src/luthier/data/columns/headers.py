"""Column names of support exports in other languages, with the English word of each."""

from __future__ import annotations

import re
from collections.abc import Iterator

_WORDS = """
message: nachricht mitteilung mensaje messaggio bericht mensagem
question: frage pregunta domanda vraag pergunta
request: anfrage anliegen demande solicitud richiesta pedido
query: consulta
text: texte texto testo tekst
content: inhalt contenu contenido contenuto inhoud conteúdo
description: beschreibung descripción descripcion descrizione omschrijving descrição descricao
comment: kommentar commentaire comentario commento comentário
note: notiz vermerk bemerkung anmerkung remarque nota opmerking
context: kontext contexte contexto contesto zusammenhang
background: hintergrund
review: bewertung rezension avis reseña recensione
subject: betreff objet sujet asunto oggetto onderwerp assunto
title: titel titre título titulo titolo
headline: überschrift ueberschrift
reply: antwort réponse reponse respuesta risposta antwoord resposta
response: rückmeldung rueckmeldung
solution: lösung loesung solución solucion soluzione oplossing solução solucao
category: kategorie catégorie categorie categoría categoria
label: étiquette etiqueta etichetta
class: klasse classe clase
topic: thema thème theme tema argomento
intent: absicht intención intencion intenção
sentiment: stimmung
tag: schlagwort
type: typ tipo
queue: warteschlange
department: abteilung département departement departamento reparto afdeling
team: équipe equipe equipo
product: produkt produit producto prodotto produto
priority: priorität prioritaet priorité priorite prioridad priorità prioriteit prioridade
reason: grund motif motivo reden
area: bereich
outcome: ergebnis
status: statut estado stato
customer: kunde kunden kundin kundennummer kundennr cliente klant
user: benutzer nutzer utilisateur usuario utente gebruiker usuário
account: konto compte cuenta conta
assignee: bearbeiter sachbearbeiter bearbeitet
author: autor auteur autore
sender: absender expéditeur remitente mittente
conversation: gespräch gespraech unterhaltung conversación conversacion conversazione gesprek conversa
company: firma unternehmen société entreprise empresa azienda bedrijf
"""
_ENGLISH = {
    word: english
    for english, _, words in (line.partition(": ") for line in _WORDS.split("\n"))
    for word in words.split()
}


def english_header_words(column: str) -> Iterator[str]:
    """The words of a column's name in small letters, in English where they are known."""
    for word in re.split(r"[_\W]+", re.sub(r"(?<=[a-z])(?=[A-Z])", "_", column).lower()):
        yield _ENGLISH.get(word, word)
