"""Whether the words and marks around a street say that somebody lives there, or wants something sent there."""

from __future__ import annotations

import re
from collections.abc import Collection

_CUE_REACH = 60
_CUE_WORDS = 8
_AT_REACH = 10
_LABEL_REACH = 30
_BEHIND_WORDS = 4
_OPENERS = (",", "\n", ";", "(", ":", "/", "|", "=", ">", '"', "\t")
_SPOKEN = re.compile(r"[^\W\d_]+|[:=,\n]")
_CLOSED = re.compile(r" ?(?:[,;\n)/|<\"\t]|\.?$)")
_CLAUSE = re.compile(r",? ?([^.,;:\n]{0,50})")


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


STRONG = _words("""
residenza residencia residência technician engineer plumber techniker technicien técnico tecnico monteur technik
address addresses live lives living lived reside resides residing residence moved moving relocated send sent ship
shipped shipping deliver delivered delivery delivering located billing mail post forward forwarded domicile adresse
anschrift wohnort wohne wohnt wohnen wohnhaft wohnte umgezogen gezogen ziehe ziehen schickt schicken schicke geschickt
senden sendet liefern liefert geliefert lieferung versand lieferadresse lieferanschrift rechnungsadresse habite
habitons habitez demeure demeurant domicilié domiciliée déménagé envoyer envoyez livrer livrez livraison dirección
direccion vivo vive vivimos vivía domicilio mudé mudamos enviar envíen envíe entregar entrega envío indirizzo abito
abita abitiamo residente trasferito trasferita spedire spedite consegna consegnare domiciliato endereço morada moro
mora moramos mudei enviem adres adresie woon woont wonen verhuisd bezorgen bezorg stuur gestuurd bezorgadres mieszkam
mieszka zamieszkały wysłać dostarczyć adressen bor bodde flyttat flyttade flyttet skicka levereras bopæl sendes osoite
osoitteeni asun adresa adrese pošlete
doručte zásilku címem cím lakcímem lakcím szállítási locuiesc trimiteți livrare livrați adresim adresi teslimat evim
zustellung zustellen leveren levering lever leverera toimitus toimittakaa lähettäkää entreguem entreguen bezorgt stuurt
bydlím lakom küldjék küldeni pošaljite dostava dostave živim isporuka adresas adresu pristatymo gyvenu siųskite adresine
adresinde oturuyorum gönderin mailing residential
""")
"""Who lives or moves somewhere, or has something sent there, says where."""
CUES = STRONG | _words("""
house home flat apartment office shop street road courier parcel package driver left dropped collect
visit stay stays stayed staying meet meeting meetup appointment neighbour neighbours neighbor neighbors tenant tenants
landlord lease leased rent rents rented renting contract redirect redirected letter letters bring brought find
household property headquarters haus hause wohnung büro laden straße strasse paket paketbote kurier abgegeben
abgestellt abholen besuchen sitz treffen treffpunkt termin nachbarn miete mieter vermieter mietvertrag vertrag brief
briefe bringen findet finden zuhause maison appartement bureau boutique colis livreur déposé logement siège rendez
voisin voisins voisine bail loyer loue locataire contrat lettre courrier trouvez rue casa piso oficina tienda paquete
repartidor sede cita taller queda alquiler alquilo inquilino contrato carta vecino vecinos calle appuntamento contratto
affitto lettera immobile vicini appartamento ufficio negozio pacco corriere lasciato via apartamento escritório loja
encomenda encontro fica vizinho vizinhos aluguel arrendamento rua huis kantoor winkel afspraak buren huur huurder
pakket koerier straat dom domu mieszkanie biuro sklep umowa sąsiad spotkanie paczka bydlím adresa adrese pošlete
doručte zásilku címem cím lakcímem lakcím szállítási locuiesc trimiteți livrare livrați adresim adresi teslimat evim
zustellung zustellen leveren levering lever leverera toimitus toimittakaa lähettäkää entreguem entreguen bezorgt stuurt
ulica hem hus hemma kontor butik gata hjem lejlighed pakke kontoret butikken gade gate talo koti paketti katu
come comes came coming visits visited pick picked pickup invoice bill meter quitté quitter quittons facture passer venez
compteur contador luz medidor factura recogida recoger pasar recibo trovato trova fattura contatore ritiro passare conta
conto fatura levantar recolha kommen vorbei abholung rechnung zähler factuur ophalen meterkast rachunek licznik odbiór
""")
"""The same, with what else is said of places: who meets, rents, visits or finds something names one at times."""
SAID = _words("""
address adresse anschrift dirección direccion indirizzo endereço morada adres adressen osoite adresa adresi cím
""")
"""What an address is called: behind it and a colon, a name with a number is one."""
LABELS = tuple(SAID)
PREPOSITIONS = _words("""
by of de für fuer voor pour
to at in on is s from near into of for nach an ist unter am auf bei lautet zur zum à au aux est chez en es al a hacia
says said reads shows regarding about concerns concerning betrifft riguarda concerne concernant sobre betreft dotyczy
è é em na no para per presso op naar te przy do w på till i til ved aan
op la pe v je osoitteessa se
""")
"""Words between such a one and the address."""
AT = _words("""
at to from near nach in an am en à au naar w do på i til em na a presso
""")
"""The most telling of them, just before a name and a number."""
AT_ENGLISH = _words("at to from")
"""Those of them after which no other language counts."""
IS = _words("as is was be ist war est était es era è é como come als jest är er")
WHERE = _words("where wo où donde dónde dove onde waar gdzie där der hvor")
HOMES = _words("""
residence address home adresse anschrift wohnsitz zuhause domicile residencia dirección domicilio indirizzo residenza
casa endereço morada adres osoite
""")
LIVES = _words("""
live lives lived living stay stays wohne wohnt wohnen habite habitons habitent vivo vive vivimos abito abita abitiamo
moro mora moramos woon woont wonen mieszkam mieszka bor
""")
"""What is said of an address behind it: *… as his residence*, *…, where I live*."""


def spoken(text: str) -> list[str]:
    """Its words in small letters, and the marks that part what is said."""
    return _SPOKEN.findall(text.lower())


def is_at(text: str, start: int, words: Collection[str] = AT) -> bool:
    """Whether a word such as `at` stands just before."""
    return any(word in words for word in spoken(text[max(0, start - _AT_REACH) : start])[-1:])


def is_labelled(text: str, start: int) -> bool:
    """Whether *address:*, or a word that ends so, stands just before."""
    before = spoken(text[max(0, start - _LABEL_REACH) : start])[-2:]
    return len(before) > 1 and before[1] in (":", "=") and before[0].endswith(LABELS)


def is_told_near(text: str, start: int) -> bool:
    """Whether one of the few words before says that somebody lives, meets or has something sent somewhere."""
    return not CUES.isdisjoint(spoken(text[max(0, start - _CUE_REACH) : start])[-_CUE_WORDS:])


def is_sent(text: str, start: int) -> bool:
    """Whether somebody lives, or has something sent, to what follows: *I live in …*, *ship it to …*."""
    before = spoken(text[max(0, start - _CUE_REACH) : start])[-_CUE_WORDS:]
    last = before[-1] if before else ""
    is_before = last in (":", "=") or last in PREPOSITIONS or last in STRONG
    return is_before and not STRONG.isdisjoint(before)


def is_told(text: str, start: int, end: int) -> bool:
    """Whether what stands before or behind says that somebody lives, or wants something sent, there."""
    before = spoken(text[max(0, start - _CUE_REACH) : start])[-_CUE_WORDS:]
    last = before[-1] if before else ""
    is_before = last in (":", "=") or last in PREPOSITIONS or last in CUES
    return (is_before and not CUES.isdisjoint(before)) or is_told_behind(text, end)


def is_told_behind(text: str, end: int) -> bool:
    """Whether what follows says so: *… is my address*."""
    clause = _CLAUSE.match(text, end)
    words = clause[1].lower().split()[:_BEHIND_WORDS] if clause else []
    is_home = words[:1] and words[0] in IS and not HOMES.isdisjoint(words)
    return bool(is_home) or (not WHERE.isdisjoint(words[:2]) and not LIVES.isdisjoint(words))


def is_apart(text: str, start: int, end: int) -> bool:
    """Whether it is a line of its own, or stands between commas."""
    before = text[max(0, start - 2) : start].rstrip(" ")
    return (start == 0 or before[-1:] in _OPENERS) and _CLOSED.match(text, end) is not None
